"""What is fuzzed: for each target a function of bytes that raises only where something is wrong.

Every target hands the bytes to all readers of one kind of text from outside. A reader gives a value or its
own error; what it gives must hold together: what is encoded again is read as the same, nothing leaves its
place, and what people are shown is one line. `seeds` are inputs to begin with.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from asyncbuild.cache.inline import decode_inline
from asyncbuild.cache.results import CachedResult, DamagedResult
from asyncbuild.cache.scope_index import decode_index
from asyncbuild.dockerfile.ignore import IgnorePatterns
from asyncbuild.errors import AsyncbuildError, InputError, LayerError, RemoteProtocolError
from asyncbuild.image.config import ImageConfig, InvalidConfig
from asyncbuild.image.digest import Digest, InvalidDigest
from asyncbuild.image.manifest import Descriptor, Index, InvalidManifest, Manifest, parse_manifest
from asyncbuild.image.platform import Platform
from asyncbuild.image.reference import InvalidReference, Reference
from asyncbuild.image.signing import (
    PAYLOAD_TYPE,
    SIGNATURE,
    UnreadableSignature,
    read_bundle,
    read_payload,
)
from asyncbuild.layers.facts import UnpackedFacts
from asyncbuild.layers.limits import LayerLimits
from asyncbuild.layers.reader import TarReader
from asyncbuild.layers.unpack import UnpackJob, unpack
from asyncbuild.registry.auth import (
    Credential,
    TokenRequest,
    Wish,
    check_realm,
    choose_challenge,
    read_token,
    token_flow,
)
from asyncbuild.registry.challenge import parse_challenges
from asyncbuild.registry.limits import RateLimit
from asyncbuild.registry.protocol import (
    parse_content_range,
    parse_upload_range,
    read_words,
    redact,
    resolve_location,
    with_digest,
)
from asyncbuild.registry.retry import retry_after
from asyncbuild.store.kept import KeptImage
from support import fuzz, layers

_LIMITS = LayerLimits(size=8 << 20, ratio=500.0, entries=500)
_HOME = "https://registry.example/v2/a/blobs/uploads/1"
_SECRET = "the login's password"
_SIGNED = Descriptor(PAYLOAD_TYPE, Digest.of(b""), 0, annotations={SIGNATURE: "AAAA"})
_ORIGIN = Reference.parse("registry.example/a")


def read_tar(data: bytes) -> None:
    """Read entry by entry; then unpack, and nothing beside the destination changes."""
    with contextlib.suppress(LayerError):
        for entry in TarReader([data]):
            assert entry.path == "" or not entry.path.startswith("/"), entry
            assert ".." not in entry.path.split("/"), entry
            assert "\0" not in entry.path + entry.link, entry
            assert entry.size >= 0, entry
            if entry.size > _LIMITS.size:
                break
    scratch = Path(tempfile.mkdtemp(prefix="asyncbuild-fuzz-", dir="/dev/shm"))
    try:
        _unpack(scratch, data)
    finally:
        shutil.rmtree(scratch)


def _unpack(scratch: Path, data: bytes) -> None:
    for name in ("out", "sentinel"):
        (scratch / name).mkdir()
    (scratch / "sentinel/f").write_bytes(b"good")
    os.utime(scratch / "sentinel", (1, 1))
    before = {path: fact for path, fact in layers.facts(scratch).items() if path != "out"}
    job = UnpackJob(str(scratch / "out"), Digest.of(data), len(data), limits=_LIMITS)
    with contextlib.suppress(LayerError):
        facts = unpack(job, layers.pieces(data, [700])).facts
        assert UnpackedFacts.from_json(facts.to_json()) == facts
    shutil.rmtree(scratch / "out")
    assert layers.facts(scratch) == before


def read_json(data: bytes) -> None:
    """Every document that comes from a registry, a cache or our own store."""
    for media_type in ("", "application/vnd.oci.image.index.v1+json"):
        with contextlib.suppress(InvalidManifest):
            _check_manifest(parse_manifest(data, media_type), data)
    with contextlib.suppress(InvalidConfig):
        config = ImageConfig.parse(data)
        assert ImageConfig.parse(config.encode()).encode() == config.encode()
        str(config.platform).encode(errors="surrogatepass")
    with contextlib.suppress(DamagedResult):
        result = CachedResult.decode(data, _ORIGIN)
        assert CachedResult.decode(result.encode(), _ORIGIN) == result
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        KeptImage.decode(data)
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        UnpackedFacts.from_json(data.decode("utf-8", "replace"))
    with contextlib.suppress(UnreadableSignature):
        read_bundle(data, b"a manifest")
    assert read_payload(_SIGNED, data).message == data
    _one_line(read_words(data).text)
    with contextlib.suppress(RemoteProtocolError):
        token, seconds = read_token(TokenRequest("GET", _HOME), data)
        assert token.isascii()
        assert token.isprintable()
        assert seconds > 0


def _check_manifest(found: Manifest | Index, raw: bytes) -> None:
    assert found.raw == raw
    if isinstance(found, Index):
        made = Index.make(found.manifests, media_type=found.media_type)
        assert parse_manifest(made.raw) == made
        for platform in ("linux/amd64", "linux/arm/v7"):
            found.choose(Platform.parse(platform))
        decode_index(found, _ORIGIN)
        return
    again = Manifest.make(found.config, found.layers, media_type=found.media_type)
    assert parse_manifest(again.raw) == again
    decode_inline(found, raw, _ORIGIN)


def read_reference(data: bytes) -> None:
    """References, digests, platforms: what is read is written as it was read, in letters of the grammar."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(InvalidReference):
        found = Reference.parse(text)
        assert str(found).isascii()
        _one_line(str(found))
        assert " " not in str(found)
        assert Reference.parse(str(found)) == found
        assert Reference.parse(found.familiar) == found
    with contextlib.suppress(InvalidDigest):
        assert str(Digest.parse(text)) == text
    with contextlib.suppress(ValueError, AsyncbuildError):
        Platform.parse(text)


def read_headers(data: bytes) -> None:
    """Headers of answers, as httpx gives them: challenges, locations, ranges, waits, rate limits."""
    text = data.decode("latin-1")
    challenges = parse_challenges([text, text[::-1]])
    chosen = choose_challenge(challenges)
    if chosen is not None and chosen.scheme == "bearer":
        _talk(chosen.get("realm"), text)
    with contextlib.suppress(RemoteProtocolError):
        place = resolve_location(_HOME, text)
        assert place.startswith("https://"), place
        with_digest(place, Digest.of(b""))
    _one_line(redact(text))
    span = parse_content_range(text)
    assert span is None or span.first <= span.last
    assert parse_upload_range(text) >= 0
    assert (retry_after({"retry-after": text, "date": text}) or 0) >= 0
    RateLimit.read({"ratelimit-limit": text, "ratelimit-remaining": text})


def _talk(realm: str, header: str) -> None:
    """No login goes anywhere but over https."""
    challenge = choose_challenge(parse_challenges([header]))
    if challenge is None:
        return
    try:
        check_realm(realm, registry_url=_HOME, insecure=False)
    except RemoteProtocolError as error:
        _one_line(str(error))
        return
    flow = token_flow(challenge, Credential("u", _SECRET), Wish("r", frozenset()), 0.0)
    with contextlib.suppress(AsyncbuildError, StopIteration):
        request = next(flow)
        assert request.url.startswith("https:") or not challenge.get("realm").startswith("https:")


def read_ignore(data: bytes) -> None:
    """An ignore file: whatever need not be entered is excluded whole."""
    problem: InputError | None = None
    try:
        _check_pruning(IgnorePatterns.parse(data), data)
    except InputError as error:
        problem = error
    if problem is not None:
        assert problem.location is not None
        assert 1 <= problem.location.line <= data.count(b"\n") + 1
        problem.render().encode(errors="surrogateescape")  # names are bytes; stderr escapes them


def _check_pruning(patterns: IgnorePatterns, data: bytes) -> None:
    lines = data.decode("utf-8", "surrogateescape").splitlines()[:8]
    names = [line.strip("!/ \t") for line in lines] + ["a", "a/b/c", "x" * 255, "Dockerfile"]
    for name in names:
        path = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
        if path and patterns.prunable(path):
            assert patterns.excluded(path), path
            assert patterns.excluded(f"{path}/below"), path


def _one_line(text: str) -> None:
    assert text.isprintable() or not text, text


TARGETS: Mapping[str, Callable[[bytes], None]] = MappingProxyType(
    {
        "dockerfile": fuzz.read,
        "tar": read_tar,
        "json": read_json,
        "reference": read_reference,
        "headers": read_headers,
        "ignore": read_ignore,
    }
)
_TESTS = Path(__file__).parent.parent


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with: valid ones, and those that once were too much."""
    found = [path.read_bytes() for path in sorted((_TESTS / "fuzz" / target).glob("*"))]
    match target:
        case "dockerfile":
            examples = _TESTS.parent / "examples"
            files = [*_TESTS.rglob("Dockerfile"), *examples.rglob("Dockerfile")]
            found += [path.read_bytes() for path in sorted(files) if path.is_file()]
        case "tar":
            found += _tars()
        case "ignore":
            found += [path.read_bytes() for path in sorted(_TESTS.rglob("*.dockerignore"))]
            found += [b"*\n!src/**/*.py\n**/node_modules\n# a\n[a-c]?\\*\n"]
        case _:
            found += [text.encode("latin-1") for text in _TEXTS[target]]
    return found


def _tars() -> list[bytes]:
    plain = layers.tar(
        layers.directory("d"),
        layers.member("d/f", data=b"hello" * 200),
        layers.hardlink("d/h", "d/f"),
        layers.symlink("s", "../../sentinel"),
        layers.member("s/f", data=b"bad"),
        layers.member("d/.wh.gone"),
        layers.member("d/.wh..wh..opq"),
        layers.member("x", pax_headers={"SCHILY.xattr.user.a": "b", "path": "y/z"}),
    )
    sparse = layers.member(
        "s",
        data=b"1\n0\n5\n".ljust(512, b"\0") + b"hello",
        pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99"},
    )
    return [plain, layers.tar(sparse), gzip.compress(plain, mtime=0), b""]


def _documents() -> list[str]:
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 3}
    layer |= {"digest": str(Digest.of(b"a")), "annotations": {"a": "b"}, "urls": ["https://a"]}
    entry = {**layer, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}
    stored = {"descriptor": layer, "diffId": str(Digest.of(b"b"))}
    documents: list[object] = [
        {"schemaVersion": 2, "config": layer, "layers": [layer]},
        {"schemaVersion": 2, "manifests": [entry, layer]},
        {
            "os": "linux",
            "architecture": "amd64",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["A=b"], "Cmd": "x", "Healthcheck": {"Test": ["NONE"], "Retries": 3}},
            "rootfs": {"diff_ids": [str(Digest.of(b"c"))]},
            "history": [{"created_by": "x", "empty_layer": True}],
            "dev.asyncbuild.cache.inline": [["ab"]],
        },
        {"layer": stored, "below": [stored], "created": 5},
        {"manifest": str(Digest.of(b"d")), "names": ["a/b:c"], "origins": {}},
        {"implicitDirectories": ["a"], "outsideLinks": [["a", "b"]], "entries": 1, "size": 2},
        {"errors": [{"code": "DENIED", "message": "no"}]},
        {"token": "abc", "expires_in": 60},
    ]
    return [json.dumps(document) for document in documents]


_TEXTS: Mapping[str, Iterable[str]] = {
    "json": _documents(),
    "reference": [
        "busybox",
        "localhost:5000/a/b:tag",
        f"[::1]:5000/a__b@{Digest.of(b'')}",
        "docker.io/library/a.b-c:latest",
        "linux/arm64/v8",
    ],
    "headers": [
        'Bearer realm="https://auth.example/token",service="a",scope="repository:a:pull,push"',
        "Basic realm=x, Negotiate abcdef==, Bearer realm=https://a/b?c=d",
        "https://cdn.example:443/a?b=c#d",
        "//elsewhere/../x",
        "http://registry.example/v2/",
        "bytes 0-9/10",
        "0-99",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "100;w=21600",
    ],
}


def mutations(target: str, count: int, seed: int) -> Iterable[bytes]:
    """The seeds, then ``count`` inputs made of them by chance: always the same for the same ``seed``."""
    chance = random.Random(seed)
    known = seeds(target)
    yield from known
    for _ in range(count):
        data = bytearray(chance.choice(known))
        for _ in range(chance.randint(1, 6)):
            _mutate(data, chance, chance.choice(known))
        yield bytes(data[: 1 << 16])


def _mutate(data: bytearray, chance: random.Random, other: bytes) -> None:
    at = chance.randint(0, len(data))
    match chance.randint(0, 4):
        case 0:
            data[at : at + 1] = chance.randbytes(1)
        case 1:
            del data[at : at + chance.randint(1, 40)]
        case 2:
            start = chance.randint(0, len(other))
            data[at:at] = other[start : start + chance.randint(1, 600)]
        case 3:
            data[at:at] = data[at : at + 20] * chance.randint(1, 8)
        case _:
            data[at : at + 8] = chance.choice([b"\0" * 8, b"\xff" * 8, b"99999999", b'[{"":[[{'])
