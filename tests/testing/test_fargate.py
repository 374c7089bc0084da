"""What the far link answers itself."""

from asyncbuild.testing.fargate import (
    TOKEN,
    BearerGate,
    Gate,
    RedirectGate,
    TokenHost,
    first_answer,
)
from asyncbuild.testing.httpscan import Head

DIGEST = "sha256:" + "a" * 64


def _head(method: str, path: str, **fields: str) -> Head:
    return Head((method, path, "HTTP/1.1"), fields, b"")


def test_challenge_names_realm_and_scope() -> None:
    """A push without a token is refused with the scope that it needs."""
    answer = BearerGate("http://t/token").answer(_head("POST", "/v2/team/app/blobs/uploads/"))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'realm="http://t/token"' in answer
    assert b'scope="repository:team/app:pull,push"' in answer


def test_token_opens_the_gate() -> None:
    """A request with the token is passed on."""
    gate = BearerGate("http://t/token")
    assert gate.answer(_head("GET", "/v2/a/manifests/1", authorization=f"Bearer {TOKEN}")) is None


def test_token_host_gives_the_token() -> None:
    """The token host answers /token, and nothing else."""
    assert TOKEN.encode() in (TokenHost().answer(_head("GET", "/token?scope=x")) or b"")
    assert b" 404 " in (TokenHost().answer(_head("GET", "/v2/")) or b"")


def test_only_gets_of_blobs_are_redirected() -> None:
    """HEADs, uploads and manifests stay with the registry."""
    gate = RedirectGate("http://blobs:1")
    answer = gate.answer(_head("GET", f"/v2/a/b/blobs/{DIGEST}"))
    assert answer is not None
    assert f"Location: http://blobs:1/v2/a/b/blobs/{DIGEST}\r\n".encode() in answer
    assert gate.answer(_head("HEAD", f"/v2/a/b/blobs/{DIGEST}")) is None
    assert gate.answer(_head("GET", f"/v2/a/b/manifests/{DIGEST}")) is None


def test_first_gate_with_an_answer_wins() -> None:
    """Gates are asked in order."""
    gates: list[Gate] = [BearerGate("http://t/token"), RedirectGate("http://blobs:1")]
    assert b" 401 " in (first_answer(gates, _head("GET", f"/v2/a/blobs/{DIGEST}")) or b"")
    held = _head("GET", f"/v2/a/blobs/{DIGEST}", authorization=f"Bearer {TOKEN}")
    assert b" 307 " in (first_answer(gates, held) or b"")
