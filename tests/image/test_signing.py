"""Signatures that cosign itself has made, and damaged ones.

The first is a classic one (published with the tests of sigstore-rs), the second a bundle of
cosign 3, pushed to a public registry and published with its key.
"""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncbuild.image.digest import Digest
from asyncbuild.image.keys import PublicKey
from asyncbuild.image.manifest import Descriptor
from asyncbuild.image.signing import (
    PAYLOAD_TYPE,
    SIGNATURE,
    UnreadableSignature,
    read_bundle,
    read_payload,
    referrers_tag,
    signature_tag,
)

HEX = "f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b"
CLASSIC_KEY = b"""\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENptdY/l3nB0yqkXLBWkZWQwo6+cu
OSWS1X9vPavpiQOoTTGC0xX57OojUadxF1cdQmrsiReWg2Wn4FneJfa8xw==
-----END PUBLIC KEY-----
"""
CLASSIC = (
    b'{"critical":{"identity":{"docker-reference":"registry-testing.svc.lan/'
    b'busybox"},"image":{"docker-manifest-digest":"sha256:'
    b'f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b"},'
    b'"type":"cosign container image signature"},"optional":null}'
)
CLASSIC_SIGNATURE = "MEUCIQD6q/COgzOyW0YH1Dk+CCYSt4uAhm3FDHUwvPI55zwnlwIgE0ZK58ZOWpZw8YVmBapJhBqCfdPekIknimuO0xH8Jh8="
BUNDLE_KEY = b"""\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEoJmXprHRCRJdqHnRaPDkVssbQNO1
is6XUr+/ApqnDi8HvBCRPbwU2P8jgkgtOOggNUf03tvJe0/9eZOb04aDbQ==
-----END PUBLIC KEY-----
"""
BUNDLE = (
    b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial":'
    b'{"publicKey":{"hint":"h162TZsIBy5Y8U9qYWcmpVAp5dKpXhR7gnz8sNfZjV4="}}, "dsseEnvelope":'
    b'{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCAic3ViamVjdCI6W3siZG'
    b"lnZXN0Ijp7InNoYTI1NiI6IjUwOTliODlkNzY2NmNjMjE4NmNhZDc2OWRkYzI2MmRkYzdjMzM1YjMzZjVmZTc5Zjlm"
    b"ZmU1MGEwMTI4MmIyM2UifSwgImFubm90YXRpb25zIjp7fX1dLCAicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3"
    b'RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwgInByZWRpY2F0ZSI6e319", "payloadType":'
    b'"application/vnd.in-toto+json", "signatures":[{"sig":"MEUCIBs2jKDupMmrqsjzI3W2oiID2y0P7n4UKT'
    b'/RZHFeUOuhAiEA4SWsNDZXQBFqaA1/npF+HOGAaG2iuA52mxgPFCpgQog="}]}}'
)
BUNDLED = "sha256:5099b89d7666cc2186cad769ddc262ddc7c335b33f5fe79f9ffe50a01282b23e"


def layer(signature: str, raw: bytes = CLASSIC) -> Descriptor:
    """A layer of a signature's manifest."""
    return Descriptor(PAYLOAD_TYPE, Digest.of(raw), len(raw), annotations={SIGNATURE: signature})


def test_a_classic_signature_of_cosign() -> None:
    """Its payload names the image, and its key verifies it; another key and other bytes do not."""
    key = PublicKey.parse(CLASSIC_KEY, "cosign.pub")
    signed = read_payload(layer(CLASSIC_SIGNATURE), CLASSIC)
    assert signed.image == Digest("sha256", HEX)
    assert key.signed(signed)
    assert not PublicKey.parse(BUNDLE_KEY, "other.pub").signed(signed)
    altered = CLASSIC.replace(b"f3cf", b"f3ce")
    assert not key.signed(read_payload(layer(CLASSIC_SIGNATURE, altered), altered))


def test_a_bundle_of_cosign() -> None:
    """The statement's subject is the image, and the signature is of the whole envelope."""
    key = PublicKey.parse(BUNDLE_KEY, "cosign.pub")
    signed = read_bundle(BUNDLE, b"")
    assert str(signed.image) == BUNDLED
    assert key.signed(signed)
    assert not PublicKey.parse(CLASSIC_KEY, "other.pub").signed(signed)
    document = json.loads(BUNDLE)
    envelope = document["dsseEnvelope"]
    statement = base64.b64decode(envelope["payload"]).replace(b"5099", b"5098")
    envelope["payload"] = base64.b64encode(statement).decode()
    assert not key.signed(read_bundle(json.dumps(document).encode(), b""))


def test_where_signatures_are() -> None:
    """Tags have no colon."""
    assert signature_tag(Digest("sha256", HEX)) == f"sha256-{HEX}.sig"
    assert referrers_tag(Digest("sha256", HEX)) == f"sha256-{HEX}"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b"{}",
        b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}',
        BUNDLE.replace(b'"payload"', b'"pay"'),
        BUNDLE.replace(b'[{"sig"', b'[{"gis"'),
        BUNDLE.replace(b'[{"sig"', b'["a", {"sig"'),
        BUNDLE.replace(b'"signatures":[', b'"signatures":7, "x":['),
        BUNDLE.replace(b'"dsseEnvelope":{', b'"dsseEnvelope":[], "x":{'),
    ],
)
def test_what_is_no_bundle(raw: bytes) -> None:
    """Is told by one error."""
    with pytest.raises(UnreadableSignature):
        read_bundle(raw, b"")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(["critical", "image", "docker-manifest-digest", "type", ""]))
def test_any_payload_is_read(value: object, name: str) -> None:
    """Nothing that may stand in a payload makes reading it fail in another way."""
    document = json.loads(CLASSIC)
    if name == "":
        document = value
    elif name in document:
        document[name] = value
    elif name in document["critical"]:
        document["critical"][name] = value
    else:
        document["critical"]["image"][name] = value
    raw = json.dumps(document).encode()
    signed = read_payload(layer(CLASSIC_SIGNATURE, raw), raw)
    assert signed.image in (None, Digest("sha256", HEX))


@given(
    JSON,
    st.sampled_from(
        ["mediaType", "dsseEnvelope", "payload", "payloadType", "signatures", "messageSignature"]
    ),
)
def test_any_bundle_is_read(value: object, name: str) -> None:
    """As `test_any_payload_is_read`."""
    document = json.loads(BUNDLE)
    place = document if name in document or name == "messageSignature" else document["dsseEnvelope"]
    place[name] = value
    key = PublicKey.parse(BUNDLE_KEY, "cosign.pub")
    try:
        signed = read_bundle(json.dumps(document).encode(), b"manifest")
    except UnreadableSignature:
        return
    assert not key.signed(signed) or json.dumps(document) == json.dumps(json.loads(BUNDLE))
