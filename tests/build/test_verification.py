"""Base images must be signed: what lacks a good signature is not kept, fetched, mounted or executed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from asyncbuild.build.gate import SourceGate
from asyncbuild.build.warming import Warming, warm_images
from asyncbuild.errors import IntegrityError, NotSigned, RegistryError, RegistryUnavailable
from asyncbuild.image.keys import PublicKey, Scope, VerifyKey
from asyncbuild.image.manifest import parse_manifest
from asyncbuild.image.reference import Reference
from asyncbuild.output.spec import parse_output
from asyncbuild.plan.policy import SourcePolicy
from asyncbuild.registry.mirrors import Mirror, Mirrors
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.verification import MOST_SIGNATURES, Verification
from asyncbuild.testing.faults import Corrupt, Respond, Rule
from asyncbuild.testing.registry_auth import Doorkeeper, TokenAccess
from asyncbuild.testing.registry_transport import DoubleTransport
from support.builds import AMD64, HOST, Recorder, World, add_busybox, requests_of
from support.signing import (
    PAYLOAD_TYPE,
    Attachment,
    Layer,
    Signer,
    bundle,
    classic,
    digest_in,
    digest_of,
    envelope,
    listed,
    manifest_in,
    payload,
    referring,
    sign,
    signed_bundle,
    signed_layer,
    statement,
    text64,
    to_be_signed,
)

BASE = "base/busybox"
FROM = f"FROM {HOST}/{BASE}\n"
OTHER = "sha256:" + "a" * 64


@pytest.fixture(scope="module")
def signer(session_path: Path) -> Signer:
    """Whose signatures are wanted."""
    return Signer.make(session_path, "wanted")


@pytest.fixture(scope="module")
def stranger(session_path: Path) -> Signer:
    """Somebody else."""
    return Signer.make(session_path, "stranger")


@pytest.fixture
def world(shm_path: Path) -> World:
    """A place to build in, with a base that nobody has signed."""
    world = World.below(shm_path)
    add_busybox(world.double)
    return world


def keys(*signers: Signer, scope: str = "") -> Verification:
    """What is to be verified: by one of these, all images or those of a scope."""
    wanted = Scope.parse(scope) if scope else Scope()
    return Verification(
        tuple(
            VerifyKey(PublicKey.parse(one.public.read_bytes(), one.public.name), wanted)
            for one in signers
        )
    )


def refused(world: World, dockerfile: str, verification: Verification, **more: Any) -> str:
    """What the build says that must be refused; nothing of the image may be left or asked for."""
    world.double.log.clear()
    with pytest.raises(NotSigned) as caught:
        world.run(dockerfile, "out:1", verification=verification, **more)
    assert caught.value.exit_code == 77
    return caught.value.render()


def untouched(world: World) -> bool:
    """Whether nothing is in the store, and nothing of the image was asked for but what names it."""
    kept = [path for path in (world.store / "blobs").rglob("*") if path.is_file()]
    asked = requests_of(world.double, "GET")
    layers = manifest_in(world.double, BASE).layers
    blobs = [str(layer.digest) for layer in layers]
    return not kept and not any(blob in line for blob in blobs for line in asked)


@pytest.mark.parametrize("dockerfile", [FROM + "RUN true\n", FROM + "LABEL a=b\n"])
def test_signed(world: World, signer: Signer, stranger: Signer, dockerfile: str) -> None:
    """By one of the keys; another's signature beside it does no harm."""
    digest = digest_in(world.double, BASE)
    both = (signed_layer(stranger, digest), signed_layer(signer, digest))
    classic(digest, *both).put(world.double, BASE)
    world.run(dockerfile, "out:1", verification=keys(signer))
    world.run(dockerfile, "out:2", verification=keys(Signer.make(world.context, "new"), signer))
    assert world.double.asked("GET", r"/manifests/sha256-.*\.sig$")


def test_without_keys_nothing_is_asked(world: World, signer: Signer) -> None:
    """Nor for images that no key is for."""
    sign(world.double, BASE, signer)
    world.run(FROM + "LABEL a=b\n", "out:1")
    world.run(FROM + "LABEL a=c\n", "out:2", verification=keys(signer, scope="docker.io"))
    assert not world.double.asked(path=r"\.sig|referrers|manifests/sha256-")


def test_what_a_verification_asks(world: World, signer: Signer) -> None:
    """Two requests for the signature, at most one more in the other place, and no token of their own."""
    world.double.doorkeeper = Doorkeeper(TokenAccess())
    dockerfile = FROM + "LABEL a=b\n"
    sign(world.double, BASE, signer)
    archive = parse_output(f"type=oci,dest={world.context.parent / 'out.tar'}")

    def asked(verification: Verification) -> Counter[str]:
        world.double.log.clear()
        shutil.rmtree(world.store, ignore_errors=True)
        world.run(dockerfile, outputs=(archive,), verification=verification)
        return Counter(entry.path for entry in world.double.log)

    without, with_key = asked(Verification()), asked(keys(signer))
    more = with_key - without
    digest = digest_in(world.double, BASE)
    signature = f"/v2/{BASE}/manifests/{digest.replace(':', '-')}.sig"
    blob = f"/v2/{BASE}/blobs/{digest_of(payload(digest))}"
    others = {f"/v2/{BASE}/referrers/{digest}", f"/v2/{BASE}/manifests/{digest.replace(':', '-')}"}
    assert without - with_key == Counter()
    assert more[signature] == more[blob] == 1
    assert set(more) <= {signature, blob, *others}
    assert max(more.values()) == 1


@dataclass(frozen=True, slots=True)
class Bad:
    """A signature that is none, and what is said of it."""

    make: Callable[[str, Signer, Signer], Attachment]
    says: str


def _tampered(digest: str, signer: Signer, stranger: Signer) -> Attachment:
    """The signature of another image's payload, beside a payload for this one."""
    return classic(digest, Layer(payload(digest), signer.sign(payload(OTHER))))


def _bundle_of(said: bytes, signature: bytes) -> Callable[[str], Attachment]:
    return lambda digest: referring(digest, envelope(said, signature))


BAD = {
    "another key": Bad(
        lambda digest, signer, stranger: classic(digest, signed_layer(stranger, digest)),
        "by another key",
    ),
    "tampered": Bad(_tampered, "altered"),
    "another image": Bad(
        lambda digest, signer, stranger: classic(digest, signed_layer(signer, OTHER)),
        f"signed another image, {OTHER}",
    ),
    "another kind of payload": Bad(
        lambda digest, signer, stranger: classic(
            digest,
            Layer(
                payload(digest, type="atomic container signature"),
                signer.sign(payload(digest, type="atomic container signature")),
            ),
        ),
        "no signature of an image",
    ),
    "no payload": Bad(
        lambda digest, signer, stranger: classic(digest, Layer(b"[1]", signer.sign(b"[1]"))),
        "no signature of an image",
    ),
    "no digest in the payload": Bad(
        lambda digest, signer, stranger: classic(
            digest, Layer(payload("latest"), signer.sign(payload("latest")))
        ),
        "no signature of an image",
    ),
    "no base64": Bad(
        lambda digest, signer, stranger: classic(digest, Layer(payload(digest), "*")),
        "in no format",
    ),
    "no signature": Bad(
        lambda digest, signer, stranger: classic(digest, Layer(payload(digest), "")),
        "in no format",
    ),
    "another media type": Bad(
        lambda digest, signer, stranger: classic(
            digest, replace(signed_layer(signer, digest), media_type="text/plain")
        ),
        "in no format",
    ),
    "a payload that is too large": Bad(
        lambda digest, signer, stranger: classic(
            digest, replace(signed_layer(signer, digest), size=1 << 30)
        ),
        "in no format",
    ),
    "no layers": Bad(lambda digest, signer, stranger: classic(digest), "is not signed"),
    "a bundle by another key": Bad(
        lambda digest, signer, stranger: referring(digest, signed_bundle(stranger, digest)),
        "by another key",
    ),
    "a bundle for another image": Bad(
        lambda digest, signer, stranger: referring(digest, signed_bundle(signer, OTHER)),
        f"signed another image, {OTHER}",
    ),
    "an attestation": Bad(
        lambda digest, signer, stranger: referring(
            digest,
            envelope(
                statement(digest, "https://slsa.dev/provenance/v1"),
                signer.sign(to_be_signed(statement(digest, "https://slsa.dev/provenance/v1"))),
            ),
        ),
        "no signature of an image",
    ),
    "a statement of another type": Bad(
        lambda digest, signer, stranger: referring(
            digest,
            envelope(
                statement(digest), signer.sign(to_be_signed(statement(digest), "text/x")), "text/x"
            ),
        ),
        "no signature of an image",
    ),
    "a statement signed without its envelope": Bad(
        lambda digest, signer, stranger: referring(
            digest, envelope(statement(digest), signer.sign(statement(digest)))
        ),
        "altered",
    ),
    "a blob's signature": Bad(
        lambda digest, signer, stranger: referring(
            digest, bundle(messageSignature={"signature": text64(signer.sign(b"a blob"))})
        ),
        "altered",
    ),
    "a bundle of two signatures": Bad(
        lambda digest, signer, stranger: referring(
            digest,
            bundle(
                dsseEnvelope={
                    "payload": text64(statement(digest)),
                    "payloadType": "application/vnd.in-toto+json",
                    "signatures": [{"sig": "AAAA"}] * 2,
                }
            ),
        ),
        "in no format",
    ),
    "an old bundle": Bad(
        lambda digest, signer, stranger: referring(
            digest,
            signed_bundle(signer, digest).replace(b"bundle.v0.3+json", b"bundle+json;version=0.1"),
        ),
        "in no format",
    ),
    "no bundle": Bad(lambda digest, signer, stranger: referring(digest, b"[" * 9999), "no format"),
    "another artifact": Bad(
        lambda digest, signer, stranger: referring(
            digest, signed_bundle(signer, digest), "application/vnd.example"
        ),
        "is not signed",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_signatures(world: World, signer: Signer, stranger: Signer, name: str) -> None:
    """Each with its reason; the store stays empty, and no layer or configuration is asked for."""
    bad = BAD[name]
    bad.make(digest_in(world.double, BASE), signer, stranger).put(world.double, BASE)
    said = refused(world, FROM + "RUN true\n", keys(signer))
    assert bad.says in said
    assert "wanted.pub" in said
    assert "Dockerfile:1" in said
    assert untouched(world)
    assert not requests_of(world.double, "PUT")


def test_unsigned(world: World, signer: Signer) -> None:
    """The error says which digest wants a signature by whom."""
    said = refused(world, FROM, keys(signer))
    assert (
        f"is not signed: {HOST}/{BASE} has no signature of {digest_in(world.double, BASE)}" in said
    )
    assert "wanted.pub" in said
    assert untouched(world)


@pytest.mark.parametrize("found", ["api", "pages", "tag", "tag of cosign"])
@pytest.mark.parametrize("content", ["statement", "bytes"])
def test_bundles(world: World, signer: Signer, stranger: Signer, found: str, content: str) -> None:
    """By the API for referrers, on its third page, and by the tag of registries without it, where cosign
    tells the type of the configuration.
    """
    digest = digest_in(world.double, BASE)
    raw = manifest_in(world.double, BASE).raw
    good = signed_bundle(signer, digest)
    if content == "bytes":
        good = bundle(messageSignature={"signature": text64(signer.sign(raw))})
    bundles = [
        referring(digest, signed_bundle(stranger, digest)),
        referring(digest, signed_bundle(stranger, OTHER)),
        referring(digest, good),
    ]
    for item in bundles:
        item.put(world.double, BASE)
    world.double.referrers = {"api": 100, "pages": 1}.get(found)
    if "tag" in found:
        told = "application/vnd.oci.empty.v1+json" if "cosign" in found else None
        listed(digest, *bundles, told=told).put(world.double, BASE)
    world.run(FROM + "LABEL a=b\n", "out:1", verification=keys(signer))
    assert len(world.double.asked("GET", "/referrers/")) == (3 if found == "pages" else 1)


@pytest.mark.parametrize("status", [400, 405, 501])
def test_registries_that_know_no_referrers(world: World, signer: Signer, status: int) -> None:
    """Whatever they answer, the tag is looked at."""
    digest = digest_in(world.double, BASE)
    good = referring(digest, signed_bundle(signer, digest))
    good.put(world.double, BASE)
    listed(digest, good).put(world.double, BASE)
    world.double.faults.add(Rule(Respond(status), "GET", "/referrers/", times=None))
    world.run(FROM + "LABEL a=b\n", "out:1", verification=keys(signer))


USES = {
    "FROM": "FROM registry.example/bad\n",
    "another stage": f"FROM registry.example/bad AS x\n{FROM}COPY --from=x /bin /b\n",
    "COPY": f"{FROM}COPY --from=registry.example/bad /bin /b\n",
    "mount": f"{FROM}RUN --mount=from=registry.example/bad,target=/m true\n",
    "cache mount": f"{FROM}RUN --mount=type=cache,from=registry.example/bad,target=/m true\n",
    "variable": "ARG B=bad\nFROM registry.example/$B\n",
    "named": f"{FROM}COPY --from=named /bin /b\n",
    "digest": "FROM registry.example/bad@DIGEST\n",
    "platform": "FROM --platform=linux/amd64 registry.example/bad\n",
}


@pytest.mark.parametrize("use", USES)
def test_every_use_of_an_image(world: World, signer: Signer, use: str) -> None:
    """Wherever an image is named; the others of the build are signed."""
    sign(world.double, BASE, signer)
    add_busybox(world.double, "bad")
    dockerfile = USES[use].replace("DIGEST", digest_in(world.double, "bad"))
    contexts = {"named": f"docker-image://{HOST}/bad"} if use == "named" else {}
    said = refused(world, dockerfile, keys(signer), contexts=contexts)
    assert f"{HOST}/bad" in said
    assert "is not signed" in said
    sign(world.double, "bad", signer)
    world.run(dockerfile, "out:1", verification=keys(signer), contexts=contexts)


def test_what_a_trigger_brings(world: World, signer: Signer) -> None:
    """ONBUILD of a signed base names an image that is not."""
    add_busybox(world.double, "bad")
    world.run(f"{FROM}ONBUILD COPY --from={HOST}/bad /bin/busybox /b\n", "base/triggers:latest")
    sign(world.double, "base/triggers", signer)
    said = refused(world, f"FROM {HOST}/base/triggers\n", keys(signer))
    assert f"{HOST}/bad" in said


@pytest.mark.parametrize("whole", [True, False])
def test_of_an_index_the_index_is_signed(world: World, signer: Signer, *, whole: bool) -> None:
    """As cosign signs and verifies: what the tag means. A platform's manifest alone is not enough."""
    image = manifest_in(world.double, BASE)
    index = world.double.add_index(BASE, "latest", {AMD64: image})
    digest = str(index.digest if whole else image.digest)
    classic(digest, signed_layer(signer, digest)).put(world.double, BASE)
    if whole:
        world.run(FROM + "LABEL a=b\n", "out:1", verification=keys(signer))
    else:
        assert "is not signed" in refused(world, FROM, keys(signer))
        pinned = f"FROM {HOST}/{BASE}@{image.digest}\nLABEL a=b\n"
        world.run(pinned, "out:1", verification=keys(signer))


def test_what_is_here_is_verified_too(world: World, signer: Signer) -> None:
    """An image that builds without the option left in the store, also by digest."""
    world.run(FROM + "RUN true\n", "out:1")
    digest = digest_in(world.double, BASE)
    for name in (f"{HOST}/{BASE}", f"{HOST}/{BASE}@{digest}"):
        assert "is not signed" in refused(world, f"FROM {name}\nRUN true\n", keys(signer))


def test_warmed_images(world: World, signer: Signer, shm_path: Path) -> None:
    """An image without a signature is not warmed, the others are; one that was is verified again."""
    folder = shm_path / "warm"
    add_busybox(world.double, "bad")
    sign(world.double, BASE, signer)
    settings = RegistrySettings(transport=DoubleTransport(world.double))

    async def warm(verification: Verification, *names: str) -> None:
        images = [(Reference.parse(f"{HOST}/{name}"), AMD64) for name in names]
        warming = Warming(images, folder, verification=verification)
        await warm_images(warming, settings, Recorder())

    with pytest.raises(NotSigned, match="bad:latest is not signed"):
        trio.run(warm, keys(signer), "bad", BASE)
    names = (folder / "index.json").read_text()
    assert BASE in names
    assert "bad" not in names
    trio.run(warm, Verification(), "bad")
    refused(world, f"FROM {HOST}/bad\n", keys(signer), cache_dir=folder)
    world.run(FROM + "LABEL a=b\n", "out:1", verification=keys(signer), cache_dir=folder)


def test_layouts_are_refused(world: World, signer: Signer, shm_path: Path) -> None:
    """A layout has nobody to ask; a key for registries does not mean it."""
    layout = shm_path / "layout"
    world.run(FROM + "LABEL a=b\n", "out:1")
    image = manifest_in(world.double, BASE)
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    for digest, data in world.double.blobs[BASE].items():
        (blobs / digest.hex).write_bytes(data)
    (blobs / image.digest.hex).write_bytes(image.raw)
    (layout / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [image.descriptor.to_json()]})
    )
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    contexts = {"base": f"oci-layout://{layout}"}
    said = refused(world, "FROM base\nLABEL a=b\n", keys(signer), contexts=contexts)
    assert f"{layout} is not in a registry" in said
    scoped = keys(signer, scope=HOST)
    world.run("FROM base\nLABEL a=b\n", "out:2", verification=scoped, contexts=contexts)


def test_what_a_policy_converts(world: World, signer: Signer, stranger: Signer) -> None:
    """A key for the name in the Dockerfile, or for the name that is used instead, which counts more."""
    sign(world.double, BASE, signer)
    rule = {
        "action": "CONVERT",
        "selector": {"identifier": "docker-image://old.example/*"},
        "updates": {"identifier": f"docker-image://{HOST}/{BASE}:latest"},
    }
    gate = SourceGate(SourcePolicy.parse(json.dumps({"rules": [rule]}).encode(), "policy.json"))
    old = "FROM old.example/base:1\nLABEL a=b\n"
    world.run(old, "out:1", gate=gate, verification=keys(signer, scope="old.example"))
    refused(world, old, keys(stranger, scope="old.example"), gate=gate)
    both = (*keys(stranger, scope="old.example").keys, *keys(signer, scope=HOST).keys)
    world.run(old, "out:1", gate=gate, verification=Verification(both))


@pytest.mark.parametrize(
    "name", ["Registry.Example", "registry.example:443", "REGISTRY.EXAMPLE:0443"]
)
def test_no_spelling_gets_around(world: World, signer: Signer, name: str) -> None:
    """One host is one scope."""
    refused(world, f"FROM {name}/{BASE}\n", keys(signer, scope=f"{HOST}/base"))


def test_a_flood_of_signatures(world: World, signer: Signer, stranger: Signer) -> None:
    """A bounded number is looked at, and the refusal says so; none of them is fetched twice."""
    digest = digest_in(world.double, BASE)
    wrong = Layer(payload(digest), stranger.sign(payload(digest)))
    many = [replace(wrong, more={"n": str(n)}) for n in range(MOST_SIGNATURES)]
    classic(digest, *many, signed_layer(signer, digest)).put(world.double, BASE)
    said = refused(world, FROM, keys(signer))
    assert f"{MOST_SIGNATURES} signatures are by another key" in said
    assert "1 more were not looked at" in said


def test_a_huge_list_of_signatures(world: World, signer: Signer) -> None:
    """A manifest larger than any registry must take is not read; the image is not used."""
    digest = digest_in(world.double, BASE)
    good = signed_layer(signer, digest)
    huge = replace(good, more={"junk": "x" * (5 << 20)})
    classic(digest, huge).put(world.double, BASE)
    with pytest.raises(RegistryError) as caught:
        world.run(FROM, "out:1", verification=keys(signer))
    assert caught.value.exit_code == 69
    assert "good signature" in str(caught.value.hint)
    assert untouched(world)


@pytest.mark.parametrize("place", [r"\.sig$", "/referrers/"])
def test_a_place_that_fails(world: World, signer: Signer, place: str) -> None:
    """A good signature in the other place is enough; without one the fault is the error."""
    world.double.faults.add(Rule(Respond(503), "GET", place, times=None))
    with pytest.raises(RegistryUnavailable) as caught:
        run_without_pauses(world, FROM, keys(signer))
    assert "good signature" in str(caught.value.hint)
    assert untouched(world)
    digest = digest_in(world.double, BASE)
    if "sig" in place:
        referring(digest, signed_bundle(signer, digest)).put(world.double, BASE)
    else:
        sign(world.double, BASE, signer)
    run_without_pauses(world, FROM + "LABEL a=b\n", keys(signer))


def run_without_pauses(world: World, dockerfile: str, verification: Verification) -> None:
    """Build by a clock that jumps over the pauses between tries."""
    request = world.request(dockerfile, "out:1", verification=verification)
    trio.run(world.build, request, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_a_payload_of_other_bytes(world: World, signer: Signer) -> None:
    """What the registry sends is compared with its digest before its signature is."""
    sign(world.double, BASE, signer)
    said = payload(digest_in(world.double, BASE))
    path = f"/blobs/{digest_of(said)}"
    world.double.faults.add(Rule(Corrupt(10), "GET", path, times=None))
    with pytest.raises(IntegrityError):
        run_without_pauses(world, FROM, keys(signer))
    assert untouched(world)


def test_a_signature_that_is_an_index(world: World, signer: Signer) -> None:
    """Is none."""
    digest = digest_in(world.double, BASE)
    raw = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    index = parse_manifest(raw, "application/vnd.oci.image.index.v1+json")
    world.double.add_manifest(BASE, f"{digest.replace(':', '-')}.sig", index)
    assert "is not signed" in refused(world, FROM, keys(signer))
    assert PAYLOAD_TYPE not in str(world.double.log)


def test_mirrors_have_signatures(world: World, signer: Signer) -> None:
    """They are looked for where the image is; a mirror without them is passed over."""
    mirrors = Mirrors({HOST: (Mirror("mirror.example", "m"),)})
    settings = RegistrySettings(mirrors=mirrors)
    add_busybox(world.double, f"m/{BASE}")
    sign(world.double, BASE, signer)
    request = world.request(FROM + "LABEL a=b\n", "out:1", verification=keys(signer))

    async def main() -> None:
        await world.build(request, settings=settings)

    trio.run(main)
    hosts = [entry.host for entry in world.double.asked("GET", r"\.sig$")]
    assert hosts == ["mirror.example", HOST]
