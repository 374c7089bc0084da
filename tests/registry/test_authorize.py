"""Authorization over the double: what is asked, how often, and what goes where."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
import trio

from asyncbuild.errors import NotAuthorized, RemoteProtocolError
from asyncbuild.image.digest import Digest
from asyncbuild.image.manifest import OCI_LAYER, Descriptor
from asyncbuild.registry.auth import Credential
from asyncbuild.registry.authorize import Realms
from asyncbuild.registry.bodies import BytesBody
from asyncbuild.registry.challenge import Challenge
from asyncbuild.registry.client import RegistryClient
from asyncbuild.registry.registries import RegistrySettings
from asyncbuild.registry.upload import Mounted, UploadSession
from asyncbuild.testing.faults import Delay, Respond, Rule
from asyncbuild.testing.registry import RegistryDouble
from asyncbuild.testing.registry_auth import BasicAccess, Permission, TokenAccess
from support.double import HOST, OneLogin, read_all, with_client

BOB = Credential("bob", "secret")
USERS = {"bob": "secret"}


def logged_in(login: Credential = BOB) -> RegistrySettings:
    """Settings with a login for the double's host."""
    return RegistrySettings(keychain=OneLogin(login))


def trace(double: RegistryDouble) -> list[str]:
    """Every request, as method, last part of the path and status."""
    return [
        f"{entry.method} {entry.path.rsplit('/', 1)[-1]} {entry.status}" for entry in double.log
    ]


def token_scopes(double: RegistryDouble) -> list[list[str]]:
    """The scopes of each token request."""
    return [parse_qs(entry.query).get("scope", []) for entry in double.asked(path="^/token$")]


def test_open_registry_is_asked_once() -> None:
    """No ping and no token where none is wanted."""
    double = RegistryDouble()
    image = double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        assert (await client.get_manifest("a", "latest")).digest == image.digest

    with_client(double, use)
    assert trace(double) == ["GET latest 200"]
    assert double.log[0].authorization == ""


def test_basic() -> None:
    """One 401, and from then on every request carries the login."""
    double = RegistryDouble(BasicAccess(USERS))
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")
        await client.get_manifest("a", "latest")

    with_client(double, use, logged_in())
    assert trace(double) == ["GET latest 401", "GET latest 200", "GET latest 200"]


def test_basic_with_a_wrong_password() -> None:
    """A wrong login is tried once; the error names user, host and what was tried, and no secret."""
    double = RegistryDouble(BasicAccess({"bob": "other"}))

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with pytest.raises(NotAuthorized) as caught:
        with_client(double, use, logged_in())
    assert trace(double) == ["GET latest 401", "GET latest 401"]
    text = caught.value.render()
    assert f"{HOST} does not let user 'bob' pull a:latest" in text
    assert "UNAUTHORIZED: authentication required" in text
    assert "secret" not in text


def test_basic_without_a_login() -> None:
    """Anonymous, where a password is wanted: the hint says what to do."""

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with pytest.raises(NotAuthorized, match="asks for a user name and a password") as caught:
        with_client(RegistryDouble(BasicAccess(USERS)), use)
    assert caught.value.hint is not None
    assert f"asyncbuild login {HOST}" in caught.value.hint


def test_anonymous_token() -> None:
    """A public registry with tokens: 401, token, answer; then the token is kept."""
    double = RegistryDouble(TokenAccess())
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")
        await client.get_manifest("a", "latest")

    with_client(double, use)
    assert trace(double) == ["GET latest 401", "GET token 200", "GET latest 200", "GET latest 200"]
    assert double.log[1].authorization == ""


def test_identity_token() -> None:
    """A login that is an identity token is exchanged by POST."""
    double = RegistryDouble(TokenAccess(permissions=(), identity_tokens={"refresh": "bob"}))
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with_client(double, use, logged_in(Credential(identity_token="refresh")))
    assert trace(double) == ["GET latest 401", "POST token 200", "GET latest 200"]


def test_expected_scopes_are_joined() -> None:
    """What the build says ahead is in the one token request: pulls, a push, a mount."""
    double = RegistryDouble(TokenAccess(USERS, permissions=()))
    image = double.add_image("base/a", "latest", layers=[b"layer"])

    async def use(client: RegistryClient) -> None:
        client.expect("base/a")
        client.expect("base/b", "pull")
        client.expect("team/app", "push")
        await client.get_manifest("base/a", "latest")
        answer = await client.mount_or_start_upload("team/app", image.layers[0].digest, "base/a")
        assert answer == Mounted(image.layers[0].digest)

    with_client(double, use, logged_in())
    assert token_scopes(double) == [
        ["repository:base/a:pull", "repository:base/b:pull", "repository:team/app:pull,push"]
    ]
    assert trace(double) == ["GET latest 401", "GET token 200", "GET latest 200", "POST  201"]


def test_concurrent_refusals_cause_one_token_request() -> None:
    """Many tasks that get a 401 at once share one token."""
    double = RegistryDouble(TokenAccess())
    double.faults.add(Rule(Delay(0.1), "GET", "^/token$"))
    names = [f"a{number}" for number in range(8)]
    for name in names:
        double.add_image(name, "latest")

    async def use(client: RegistryClient) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                client.expect(name)
                nursery.start_soon(client.get_manifest, name, "latest")

    with_client(double, use)
    assert len(double.asked(path="^/token$")) == 1
    assert len(double.log) == 8 + 1 + 8


def test_token_is_renewed_before_it_expires() -> None:
    """A token that is about to end is replaced without a 401."""
    double = RegistryDouble(TokenAccess(lifetime=100))
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")
        await trio.sleep(89)
        await client.get_manifest("a", "latest")
        await trio.sleep(2)
        await client.get_manifest("a", "latest")

    with_client(double, use)
    assert trace(double)[3:] == ["GET latest 200", "GET token 200", "GET latest 200"]


def test_token_that_the_registry_forgot() -> None:
    """A token that was good and is refused is replaced once, by one for everything."""
    double = RegistryDouble(TokenAccess())
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        client.expect("b")
        await client.get_manifest("a", "latest")
        double.doorkeeper.revoke_all()
        await client.get_manifest("a", "latest")

    with_client(double, use)
    assert trace(double)[3:] == ["GET latest 401", "GET token 200", "GET latest 200"]
    assert [len(scopes) for scopes in token_scopes(double)] == [2, 2]


def test_service_that_refuses_joined_scopes() -> None:
    """Then each request gets a token of its own, and the service is not asked for several again."""
    double = RegistryDouble(TokenAccess(USERS, joins=False))
    double.add_image("a", "latest")
    double.add_image("b", "latest")

    async def use(client: RegistryClient) -> None:
        client.expect("a")
        client.expect("b")
        await client.get_manifest("a", "latest")
        await client.get_manifest("b", "latest")
        await client.get_manifest("a", "latest")

    with_client(double, use, logged_in())
    assert token_scopes(double) == [
        ["repository:a:pull", "repository:b:pull"],
        ["repository:a:pull"],
        ["repository:b:pull"],
    ]


def test_registry_that_refuses_a_joined_token() -> None:
    """A token for more than is permitted may be worth less: the request gets one for itself alone."""
    double = RegistryDouble(TokenAccess(USERS, permissions=()))
    double.add_image("a", "latest")
    refusal = 'Bearer realm="https://registry.example/token",error="insufficient_scope"'
    double.faults.add(
        Rule(Respond(401, headers={"www-authenticate": refusal}), "GET", "manifests", nth=2)
    )

    async def use(client: RegistryClient) -> None:
        client.expect("b", "push")
        await client.get_manifest("a", "latest")

    with_client(double, use, logged_in())
    assert [len(scopes) for scopes in token_scopes(double)] == [2, 1]
    assert trace(double)[-1] == "GET latest 200"


def test_pull_without_the_right_to_push() -> None:
    """A user who may only pull pulls, and gets a clear error for the push, after a bounded number of
    requests.
    """
    access = TokenAccess(USERS, permissions=(Permission(".*", frozenset({"pull"}), "bob"),))
    double = RegistryDouble(access)
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        client.expect("a")
        client.expect("team/app", "push")
        await client.get_manifest("a", "latest")
        await client.mount_or_start_upload("team/app")

    with pytest.raises(NotAuthorized, match="does not let user 'bob' push a blob to team/app"):
        with_client(double, use, logged_in())
    assert len(double.log) <= 3 + 4


def test_strict_service() -> None:
    """A service that refuses what is not permitted still serves the rest of the build."""
    access = TokenAccess(
        USERS, permissions=(Permission("a", frozenset({"pull"}), "bob"),), strict=True
    )
    double = RegistryDouble(access)
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        client.expect("a")
        client.expect("team/app", "push")
        await client.get_manifest("a", "latest")
        await client.mount_or_start_upload("team/app")

    with pytest.raises(
        NotAuthorized, match=r"refuses user 'bob' \(repository:team/app:pull,push\)"
    ):
        with_client(double, use, logged_in())
    assert [entry.status for entry in double.asked(path="^/token$")] == [403, 200, 403]


def test_mount_source_that_may_not_be_read() -> None:
    """A mount that is refused becomes a plain upload."""
    access = TokenAccess(
        USERS, permissions=(Permission("team/.*", frozenset({"pull", "push"}), "bob"),), strict=True
    )
    double = RegistryDouble(access)
    blob = double.add_blob("private", b"data")

    async def use(client: RegistryClient) -> object:
        return await client.mount_or_start_upload("team/app", blob.digest, "private")

    assert isinstance(with_client(double, use, logged_in()), UploadSession)


def test_login_does_not_follow_a_redirect() -> None:
    """The host that stores blobs sees no Authorization header."""
    double = RegistryDouble(TokenAccess(USERS, permissions=()), blob_host="cdn.example")
    blob = double.add_blob("a", b"data")

    async def use(client: RegistryClient) -> bytes:
        async with client.open_blob("a", blob) as chunks:
            return await read_all(chunks)

    assert with_client(double, use, logged_in()) == b"data"
    at_cdn = [entry for entry in double.log if entry.host == "cdn.example"]
    assert [entry.path for entry in at_cdn] == [f"/cdn/{blob.digest}"]
    assert {entry.authorization for entry in at_cdn} == {""}
    assert all(
        "secret" not in entry.authorization for entry in double.log if entry.path != "/token"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_of_another_host_is_not_answered(status: int) -> None:
    """A 401 of the blob host gets neither token nor login."""
    double = RegistryDouble(TokenAccess(USERS), blob_host="cdn.example")
    blob = double.add_blob("a", b"data")
    challenge = {"www-authenticate": 'Basic realm="give me your password"'}
    double.faults.add(Rule(Respond(status, headers=challenge), path="^/cdn/", times=None))

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", blob):
            pass

    with pytest.raises(
        NotAuthorized, match=rf"https://cdn\.example/cdn/\S+\?signature=…: {status}"
    ):
        with_client(double, use, logged_in())
    assert len(double.asked(path="^/cdn/")) == 1


def test_realm_over_http_gets_no_login() -> None:
    """A registry that names a token service over plain http is refused before anything is sent there."""
    access = TokenAccess(USERS, permissions=(), realm_scheme="http", realm_host="evil.example")
    double = RegistryDouble(access)
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with pytest.raises(RemoteProtocolError, match="a login is sent only over https"):
        with_client(double, use, logged_in())
    assert [entry.host for entry in double.log] == [HOST]


def test_token_service_elsewhere() -> None:
    """The login goes to the https realm that the registry names."""
    double = RegistryDouble(TokenAccess(USERS, permissions=(), realm_host="auth.example"))
    double.add_image("a", "latest")

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with_client(double, use, logged_in())
    assert [entry.host for entry in double.log] == [HOST, "auth.example", HOST]


def test_remembered_realm() -> None:
    """A client that knows the realm from an earlier one begins with the token."""
    double = RegistryDouble(TokenAccess())
    double.add_image("a", "latest")
    settings = RegistrySettings(realms=Realms())

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with_client(double, use, settings)
    double.log.clear()
    with_client(double, use, settings)
    assert trace(double) == ["GET token 200", "GET latest 200"]


def test_remembered_realm_that_is_gone() -> None:
    """A realm that is only remembered may fail: the registry is asked for the right one."""
    double = RegistryDouble(TokenAccess())
    double.add_image("a", "latest")
    double.faults.add(Rule(Respond(404), path="^/token$"))
    settings = RegistrySettings(realms=Realms())
    settings.realms.remember(HOST, Challenge("bearer", {"realm": "https://old.example/token"}))

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with_client(double, use, settings)
    assert trace(double) == ["GET token 404", "GET latest 401", "GET token 200", "GET latest 200"]
    assert [entry.host for entry in double.log] == ["old.example", HOST, HOST, HOST]


def test_token_service_fails_for_a_while() -> None:
    """A token request is tried again after temporary failures."""
    double = RegistryDouble(TokenAccess())
    double.add_image("a", "latest")
    double.faults.add(Rule(Respond(503), path="^/token$", times=2))

    async def use(client: RegistryClient) -> None:
        await client.get_manifest("a", "latest")

    with_client(double, use)
    assert [entry.status for entry in double.asked(path="^/token$")] == [503, 503, 200]


def test_challenge_that_cannot_be_answered() -> None:
    """A registry that wants something else than Basic or Bearer is an error, at once."""
    double = RegistryDouble()
    double.faults.add(Rule(Respond(401, headers={"www-authenticate": "Negotiate"}), times=None))

    async def use(client: RegistryClient) -> None:
        async with client.open_blob("a", Descriptor(OCI_LAYER, Digest.of(b""), 0)):
            pass

    with pytest.raises(NotAuthorized, match="does not let an anonymous user pull blob"):
        with_client(double, use)
    assert len(double.log) == 1


class TwoLogins:
    """A keychain with a login for each of two teams of one host."""

    async def credential(self, registry: str, repository: str = "") -> Credential:
        """The login of the repository's first part."""
        await trio.lowlevel.checkpoint()
        return Credential(repository.partition("/")[0], "x")


@pytest.mark.parametrize("kind", [TokenAccess, BasicAccess])
def test_repositories_with_logins_of_their_own(kind: type[TokenAccess | BasicAccess]) -> None:
    """Each repository is asked for with its own login, and no token is asked for both."""
    own = tuple(
        Permission(f"{user}/.*", frozenset({"pull", "push"}), user) for user in ("ann", "ben")
    )
    users = {"ann": "x", "ben": "x"}
    access = TokenAccess(users, own, strict=True) if kind is TokenAccess else BasicAccess(users)
    double = RegistryDouble(access)
    blobs = [double.add_blob(f"{user}/app", user.encode()) for user in users]

    async def use(client: RegistryClient) -> None:
        for user in users:
            client.expect(f"{user}/app", "pull", "push")
        for _ in range(2):
            for user, blob in zip(users, blobs, strict=True):
                assert await client.get_blob(f"{user}/app", blob) == user.encode()

    with_client(double, use, RegistrySettings(keychain=TwoLogins()))
    refused = [entry for entry in double.log if entry.status != 200]
    assert len(refused) == 1  # the first request of all
    assert len(double.asked("GET", "/token")) == (2 if kind is TokenAccess else 0)


@pytest.mark.parametrize("way", ["put", "stream"])
def test_a_token_that_ends_in_the_middle_of_an_upload(way: str) -> None:
    """A session outlives its token: the request that is refused is made again with a new one."""
    double = RegistryDouble(TokenAccess(USERS))
    data = bytes(3 << 20)

    async def use(client: RegistryClient) -> None:
        session = await client.mount_or_start_upload("a")
        assert isinstance(session, UploadSession)
        double.doorkeeper.revoke_all()
        if way == "put":
            await session.put(data, Digest.of(data))
            return
        await session.stream(BytesBody(data))
        double.doorkeeper.revoke_all()
        await session.close(Digest.of(data))

    with_client(double, use, logged_in())
    assert double.blobs["a"] == {Digest.of(data): data}
    assert len([entry for entry in double.log if entry.status == 401]) == (2 if way == "put" else 3)
