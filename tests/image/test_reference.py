"""References: the grammar, the defaults, and the way back to text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.image.digest import Digest
from asyncbuild.image.reference import InvalidReference, Reference

HEX = "0123456789abcdef" * 4
DIGEST = Digest("sha256", HEX)


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("debian", "docker.io", "library/debian", "latest"),
        ("debian:12-slim", "docker.io", "library/debian", "12-slim"),
        ("me/app", "docker.io", "me/app", "latest"),
        ("docker.io/debian", "docker.io", "library/debian", "latest"),
        ("index.docker.io/debian:1", "docker.io", "library/debian", "1"),
        ("docker.io/me/app", "docker.io", "me/app", "latest"),
        ("localhost/app", "localhost", "app", "latest"),
        ("localhost:5000/app", "localhost:5000", "app", "latest"),
        ("localhost:5000", "docker.io", "library/localhost", "5000"),
        ("r.example/a/b/c:1", "r.example", "a/b/c", "1"),
        ("r:5000/a", "r:5000", "a", "latest"),
        ("[::1]:5000/a:1", "[::1]:5000", "a", "1"),
        ("[2001:db8::1]/a", "[2001:db8::1]", "a", "latest"),
        ("Host/app", "Host", "app", "latest"),
        ("127.0.0.1:80/a__b-c.d", "127.0.0.1:80", "a__b-c.d", "latest"),
        ("a:_x", "docker.io", "library/a", "_x"),
    ],
)
def test_parsed(text: str, registry: str, repository: str, tag: str) -> None:
    """A name becomes registry, repository and tag as docker reads it."""
    assert Reference.parse(text) == Reference(registry, repository, tag)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("debian", "docker.io/library/debian"),
        ("Docker.IO:443/library/debian", "docker.io/library/debian"),
        ("registry-1.docker.io/library/debian", "docker.io/library/debian"),
        ("registry.hub.docker.com/library/debian", "docker.io/library/debian"),
        ("R.Example:0443/a", "r.example/a"),
        ("R.Example:05000/a", "r.example:5000/a"),
        ("[2001:DB8::1]/a", "[2001:db8::1]/a"),
        ("[::1]:443/a", "[::1]/a"),
    ],
)
def test_one_spelling(text: str, name: str) -> None:
    """Rules see one name, however a host is written."""
    assert Reference.parse(text).canonical.name == name


def test_digests() -> None:
    """A digest stands after the tag; with one there is no default tag."""
    assert Reference.parse(f"a@{DIGEST}") == Reference("docker.io", "library/a", None, DIGEST)
    both = Reference.parse(f"r.example/a:1@{DIGEST}")
    assert both == Reference("r.example", "a", "1", DIGEST)
    assert both.identifier == str(DIGEST)
    assert Reference.parse("a:1").identifier == "1"
    assert Reference.parse_repository("a").identifier == "latest"
    assert Reference.parse("a:1").with_digest(DIGEST) == Reference.parse(f"a:1@{DIGEST}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "@sha256:" + HEX,
        "a:",
        "a@",
        "a@sha256:12",
        "a@md5:" + HEX[:32],
        "a@sha256:" + HEX.upper(),
        "A",
        "me/App",
        "a//b",
        "/a",
        "a/",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "a b",
        "a\n",
        "a\0",
        "\x1b[31ma",
        "a:1\x1b]0;title\x07",
        "r.example\r\nX-Injected: 1/a",
        "a\u202eb",
        "a@sha256:\x1b",
        "a:1\n",
        "a:-x",
        "a:" + "x" * 129,
        "r.example/" + "a" * 256,
        "-r.example/a",
        "r.example:/a",
        "r.example:123456/a",
        "[::1/a",
        "r_x.example/a",
        "https://r.example/a",
        "é",
        "a:é",
    ],
)
def test_refused(text: str) -> None:
    """What is not a reference is refused with the text in the message."""
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert str(caught.value).isprintable()


def test_upper_case_is_explained() -> None:
    """The most frequent mistake gets a word of help."""
    with pytest.raises(InvalidReference, match="lower case"):
        Reference.parse("me/App")


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/debian:12", "debian:12"),
        ("docker.io/me/app:1", "me/app:1"),
        ("r.example/a:1", "r.example/a:1"),
        ("localhost:5000/library/a:1", "localhost:5000/library/a:1"),
        ("docker.io/library/a/b:1", "library/a/b:1"),
        ("docker.io/a.b/c:1", "docker.io/a.b/c:1"),
        ("docker.io/localhost/c:1", "docker.io/localhost/c:1"),
    ],
)
def test_familiar(text: str, familiar: str) -> None:
    """The short form leaves out Docker Hub, unless it would be read as something else."""
    assert Reference.parse(text).familiar == familiar


def test_sorting() -> None:
    """References with and without tag and digest can be sorted."""
    names = ["b", "a:2", f"a@{DIGEST}", "a:1", "r.example/a"]
    found = sorted(Reference.parse(name) for name in names)
    assert [str(item) for item in found] == sorted(str(Reference.parse(name)) for name in names)


_COMPONENT = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
_REGISTRY = st.one_of(
    st.sampled_from(["docker.io", "localhost", "localhost:5000", "[::1]:443", "HOST", "r.example"]),
    st.from_regex(r"[a-z][a-z0-9]{0,4}(\.[a-z]{1,3}){1,2}(:[0-9]{1,5})?", fullmatch=True),
)
_TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}", fullmatch=True)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    """Any reference, as parsing gives them."""
    registry = draw(_REGISTRY)
    parts = draw(st.lists(_COMPONENT, min_size=1, max_size=3))
    if registry == "docker.io" and len(parts) == 1:
        parts.insert(0, "library")
    tag, digest = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    return Reference(
        registry, "/".join(parts), draw(_TAG) if tag else None, DIGEST if digest else None
    )


@given(references())
def test_round_trip(reference: Reference) -> None:
    """Both the whole and the short form are read back as the same reference."""
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference


@given(st.text(st.sampled_from("aA0.:/@_-[]é \n")))
def test_any_text(text: str) -> None:
    """Any text is a reference that is stable, or refused."""
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference


def test_long_texts_are_refused_quickly() -> None:
    """Text that is made to keep a regular expression busy does not."""
    for text in ("a" * 200_000 + "!", "a-" * 100_000, "a." * 50_000 + "/x", "-" * 100_000):
        with pytest.raises(InvalidReference):
            Reference.parse(text)
