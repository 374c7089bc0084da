"""The distribution protocol's words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbuild.errors import (
    Exchange,
    ImageNotFound,
    IntegrityError,
    NotAuthorized,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    RemoteProtocolError,
)
from asyncbuild.image.digest import Digest
from asyncbuild.registry.protocol import (
    ContentRange,
    Words,
    api_host,
    failure,
    is_loopback,
    origin,
    parse_content_range,
    printable,
    read_words,
    redact,
    resolve_location,
    uploads_path,
    with_digest,
)

DIGEST = Digest.of(b"x")
BASE = "https://registry.example/v2/a/blobs/uploads/"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (
            "/v2/a/blobs/uploads/1?_state=a%2Bb==",
            "https://registry.example/v2/a/blobs/uploads/1?_state=a%2Bb==",
        ),
        ("1?x=y", "https://registry.example/v2/a/blobs/uploads/1?x=y"),
        ("?x=y", "https://registry.example/v2/a/blobs/uploads/?x=y"),
        ("https://blobs.example/1?sig=a/b+c", "https://blobs.example/1?sig=a/b+c"),
        ("//blobs.example/1", "https://blobs.example/1"),
        ("https://registry.example:8443/1#part", "https://registry.example:8443/1"),
        ("http://registry.example/1", "https://registry.example/1"),
        ("http://registry.example:80/1", "https://registry.example/1"),
        ("  /v2/  ", "https://registry.example/v2/"),
    ],
)
def test_locations(location: str, expected: str) -> None:
    """Relative, absolute and other-host locations, with their queries untouched."""
    assert resolve_location(BASE, location) == expected


def test_location_keeps_the_port_of_a_proxy() -> None:
    """A registry that calls itself http behind a TLS proxy is asked where it was asked before."""
    assert (
        resolve_location("https://r.example:8443/v2/", "http://r.example/x")
        == "https://r.example:8443/x"
    )
    assert (
        resolve_location("https://r.example:8443/v2/", "http://r.example:8443/x")
        == "https://r.example:8443/x"
    )


def test_location_of_plain_registry() -> None:
    """From http a location may lead to http."""
    assert (
        resolve_location("http://localhost:5000/v2/", "http://127.0.0.1:6000/x")
        == "http://127.0.0.1:6000/x"
    )


@pytest.mark.parametrize(
    "location",
    [
        "",
        "  ",
        "ftp://x/y",
        "http://other.example/1",
        "http://[x",
        "file:///etc/passwd",
        "https://a:99999999/",
    ],
)
def test_bad_locations(location: str) -> None:
    """What is no URL of the web, or leads from https to another host's http, is refused."""
    with pytest.raises(RemoteProtocolError):
        resolve_location(BASE, location)


def test_digest_is_added_to_a_query() -> None:
    """The closing parameter comes after the location's own, which stay as they are."""
    text = str(DIGEST).replace(":", "%3A")
    assert (
        with_digest("https://r/x?_state=a%3D%3D", DIGEST)
        == f"https://r/x?_state=a%3D%3D&digest={text}"
    )
    assert with_digest("https://r/x", DIGEST) == f"https://r/x?digest={text}"


def test_uploads_path() -> None:
    """A session, and a mount with its source."""
    assert uploads_path("a/b") == "/v2/a/b/blobs/uploads/"
    text = str(DIGEST).replace(":", "%3A")
    assert uploads_path("a/b", DIGEST, "c/d") == f"/v2/a/b/blobs/uploads/?mount={text}&from=c%2Fd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", ContentRange(0, 9, 10)),
        ("bytes 5-5/*", ContentRange(5, 5, None)),
        (" bytes  1-2/3 ", ContentRange(1, 2, 3)),
        ("bytes 9-0/10", None),
        ("bytes 0-10/10", None),
        ("bytes */10", None),
        ("0-9", None),
        ("", None),
        ("bytes 0-99999999999999999999/*", None),
    ],
)
def test_content_range(text: str, expected: ContentRange | None) -> None:
    """RFC 9110's form, and what is not one."""
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:secret@r.example/v2/?n=5", "https://r.example/v2/?n=5"),
        (
            "https://cdn/x?X-Amz-Signature=abc&digest=sha256:1",
            "https://cdn/x?X-Amz-Signature=…&digest=sha256:1",
        ),
        ("https://r/x?token", "https://r/x?token=…"),
        ("https://r/x#fragment", "https://r/x"),
        ("http://[x", "(not a URL)"),
        ("https://r/\x1b[31m", "https://r/ [31m"),
    ],
)
def test_redaction(url: str, expected: str) -> None:
    """A URL for people holds no user, password, signature or control character."""
    assert redact(url) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'{"errors":[{"code":"manifest_unknown","message":"manifest unknown","detail":{}}]}',
            Words(frozenset({"MANIFEST_UNKNOWN"}), "manifest_unknown: manifest unknown"),
        ),
        (b'{"errors":[{"code":"A"},{"message":"b"},7]}', Words(frozenset({"A", ""}), "A; b")),
        (
            b'{"details":"incorrect username or password"}',
            Words(text="incorrect username or password"),
        ),
        (b'{"message":"no"}', Words(text="no")),
        (b"plain words\x1b[2J", Words(text="plain words [2J")),
        (b"<html>gateway</html>", Words()),
        (b"[1]", Words()),
        (b"", Words()),
        (b"\xff\xfe", Words(text="��")),
    ],
)
def test_error_bodies(body: bytes, words: Words) -> None:
    """The specification's form, those of token services and proxies, and noise."""
    assert read_words(body) == words


@settings(deadline=None)
@given(st.binary())
def test_any_error_body_is_read(body: bytes) -> None:
    """Whatever an error's body is, reading it gives one short printable line."""
    text = read_words(body).text
    assert text == "" or text.isprintable()
    assert len(text) <= 301


@pytest.mark.parametrize(
    ("status", "codes", "kind"),
    [
        (401, (), NotAuthorized),
        (403, ("DENIED",), NotAuthorized),
        (404, ("NAME_UNKNOWN",), ImageNotFound),
        (400, ("MANIFEST_BLOB_UNKNOWN",), RegistryError),
        (400, ("BLOB_UNKNOWN",), ImageNotFound),
        (400, ("DIGEST_INVALID",), IntegrityError),
        (400, ("MANIFEST_INVALID",), RegistryError),
        (429, (), RateLimited),
        (400, ("TOOMANYREQUESTS",), RateLimited),
        (408, (), RegistryUnavailable),
        (500, (), RegistryUnavailable),
        (503, (), RegistryUnavailable),
        (405, (), RegistryError),
        (206, (), RemoteProtocolError),
        (302, (), RemoteProtocolError),
    ],
)
def test_statuses(status: int, codes: tuple[str, ...], kind: type[RegistryError]) -> None:
    """Each kind of refusal has its error, with the exchange in its message."""
    exchange = Exchange("GET", "https://r/v2/", status, "words")
    error = failure("pull a", exchange, Words(frozenset(codes), "words"))
    assert type(error) is kind
    assert error.exchange == exchange
    assert "pull a" in error.message
    assert f"{status} words" in error.message


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("registry.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9:5000", True),
        ("[::1]", True),
        ("[::1]:5000", True),
        ("::1", True),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("10.0.0.1:5000", False),
        ("docker.io", False),
    ],
)
def test_loopback(host: str, *, expected: bool) -> None:
    """Names and addresses of this machine, and names that only look like them."""
    assert is_loopback(host) is expected


def test_small_words() -> None:
    """Docker Hub's API has another host; origins have ports; long lines are cut."""
    assert api_host("docker.io") == "registry-1.docker.io"
    assert api_host("ghcr.io") == "ghcr.io"
    assert origin("https://R.example/x") == ("https", "r.example", 443)
    assert origin("http://r.example:5000") == ("http", "r.example", 5000)
    assert printable("a" * 10, 4) == "aaaa…"
