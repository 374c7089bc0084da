"""Built-in sources of logins: whom they ask, what they make of the answers, and for which hosts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trio
import trio.testing

from asyncbuild.errors import InputError, NotAuthorized, RegistryError
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.aws import Ecr
from asyncbuild.registry.azure import Acr
from asyncbuild.registry.cloud import BuiltInKeychain, Source, Surroundings
from asyncbuild.registry.forges import Environment, GitHub, GitLab
from asyncbuild.registry.google import Google
from asyncbuild.registry.keychain import sources
from support.clouds import NOW, Services

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
ECR_API = "POST https://api.ecr.eu-west-1.amazonaws.com/"
ACR = "mine.azurecr.io"
GAR = "europe-docker.pkg.dev"
IMDS = "http://169.254.169.254"
METADATA = (
    "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
)
PASSWORD = {
    "authorizationData": [
        {
            "authorizationToken": base64.b64encode(b"AWS:password").decode(),
            "expiresAt": NOW + 43200,
        }
    ]
}


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (ECR, {"ecr"}),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", {"ecr"}),
        ("123456789012.dkr-ecr.us-east-1.on.aws", {"ecr"}),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", {"ecr"}),
        ("public.ecr.aws", {"ecr"}),
        (f"{ECR}.evil.example", set()),
        (f"{ECR}:443", set()),
        ("evil.dkr.ecr.eu-west-1.amazonaws.com", set()),
        ("gcr.io", {"google"}),
        ("eu.gcr.io", {"google"}),
        (GAR, {"google"}),
        ("gcr.io.evil.example", set()),
        ("evilgcr.io", set()),
        (ACR, {"acr"}),
        ("mine.azurecr.io.evil.example", set()),
        ("a.mine.azurecr.io", set()),
        ("ghcr.io", {"github"}),
        ("evil.ghcr.io", set()),
        ("docker.io", set()),
    ],
)
def test_hosts_are_matched_whole(host: str, names: set[str]) -> None:
    """A source serves its owner's hosts and none that look like them."""
    found = {source.name for source in sources() if source.serves(host)}
    assert found - {"env", "gitlab"} == names


@dataclass(frozen=True, slots=True)
class Case:
    """A place: its environment and services; and the login that is found there."""

    source: Source
    host: str
    login: Credential
    environ: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


AWS = Credential("AWS", "password", expires=43200 - 120)
AWS_KEYS = {"AccessKeyId": "id", "SecretAccessKey": "secret", "Token": "t"}
STS = {
    "AssumeRoleWithWebIdentityResponse": {
        "AssumeRoleWithWebIdentityResult": {
            "Credentials": {"AccessKeyId": "i", "SecretAccessKey": "s", "SessionToken": "t"}
        }
    }
}
ROLE = f"GET {IMDS}/latest/meta-data/iam/security-credentials/"
INSTANCE = {
    f"PUT {IMDS}/latest/api/token": b"session",
    ROLE: b"my-role\n",
    f"{ROLE}my-role": {**AWS_KEYS, "Expiration": "2030-01-01T00:00:00Z"},
}
ENV_KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
ENTRA = f"{IMDS}/metadata/identity/oauth2/token?api-version=2018-02-01"
MANAGEMENT = "&resource=https%3A%2F%2Fmanagement.azure.com%2F"
EXCHANGE = {f"POST https://{ACR}/oauth2/exchange": {"refresh_token": "refresh"}}
REFRESH = Credential(identity_token="refresh", expires=3 * 3600 - 600 - 120)
TOKEN = Credential("oauth2accesstoken", "t", expires=3600 - 120)
PERSON = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
ELSEWHERE = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/pool",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "credential_source": {
        "url": "https://ci.example/token",
        "headers": {"Authorization": "bearer x"},
        "format": {"type": "json", "subject_token_field_name": "value"},
    },
}
IMPERSONATE = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a:generate"
ADC = {"GOOGLE_APPLICATION_CREDENTIALS": "{home}/key.json"}
GRANT = {"access_token": "t", "expires_in": 3600}

CASES = {
    "ecr: environment": Case(Ecr(), ECR, AWS, ENV_KEYS, {ECR_API: PASSWORD}),
    "ecr: fips": Case(
        Ecr(),
        "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com",
        AWS,
        ENV_KEYS,
        {"POST https://ecr-fips.us-east-1.amazonaws.com/": PASSWORD},
    ),
    "ecr: dual stack": Case(
        Ecr(),
        "123456789012.dkr-ecr.us-east-1.on.aws",
        AWS,
        ENV_KEYS,
        {"POST https://ecr.us-east-1.api.aws/": PASSWORD},
    ),
    "ecr: public": Case(
        Ecr(),
        "public.ecr.aws",
        AWS,
        ENV_KEYS,
        {
            "POST https://api.ecr-public.us-east-1.amazonaws.com/": {
                "authorizationData": PASSWORD["authorizationData"][0]
            }
        },
    ),
    "ecr: web identity": Case(
        Ecr(),
        ECR,
        AWS,
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "{home}/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"},
        {"POST https://sts.eu-west-1.amazonaws.com/": STS, ECR_API: PASSWORD},
        {"token": "jwt\n"},
    ),
    "ecr: shared file": Case(
        Ecr(),
        ECR,
        AWS,
        {"AWS_PROFILE": "ci"},
        {ECR_API: PASSWORD},
        {".aws/credentials": "[ci]\naws_access_key_id = a\naws_secret_access_key = b%c\n"},
    ),
    "ecr: container": Case(
        Ecr(),
        ECR,
        AWS,
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1"},
        {"GET http://169.254.170.2/v2/credentials/1": AWS_KEYS, ECR_API: PASSWORD},
    ),
    "ecr: pod identity": Case(
        Ecr(),
        ECR,
        AWS,
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{home}/token",
        },
        {"GET http://169.254.170.23/v1/credentials": AWS_KEYS, ECR_API: PASSWORD},
        {"token": "t"},
    ),
    "ecr: instance": Case(Ecr(), ECR, AWS, {}, {**INSTANCE, ECR_API: PASSWORD}),
    "ecr: no instance": Case(Ecr(), ECR, ANONYMOUS),
    "ecr: instance without a role": Case(
        Ecr(), ECR, ANONYMOUS, {}, {f"PUT {IMDS}/latest/api/token": b"session"}
    ),
    "google: token": Case(
        Google(), GAR, Credential("oauth2accesstoken", "t"), {"GOOGLE_OAUTH_ACCESS_TOKEN": "t"}
    ),
    "google: key of a service account": Case(
        Google(),
        GAR,
        Credential("_json_key", '{"type": "service_account", "private_key": "k"}'),
        ADC,
        {},
        {"key.json": '{"type": "service_account", "private_key": "k"}'},
    ),
    "google: person": Case(
        Google(),
        "gcr.io",
        TOKEN,
        {},
        {"POST https://oauth2.googleapis.com/token": GRANT},
        {".config/gcloud/application_default_credentials.json": json.dumps(PERSON)},
    ),
    "google: another provider": Case(
        Google(),
        GAR,
        TOKEN,
        ADC,
        {
            "GET https://ci.example/token": {"value": "jwt"},
            "POST https://sts.googleapis.com/v1/token": GRANT,
        },
        {"key.json": json.dumps(ELSEWHERE)},
    ),
    "google: another provider, another account": Case(
        Google(),
        GAR,
        Credential("oauth2accesstoken", "acting", expires=3600 - 120),
        ADC,
        {
            "GET https://ci.example/token": {"value": "jwt"},
            "POST https://sts.googleapis.com/v1/token": GRANT,
            f"POST {IMPERSONATE}": {"accessToken": "acting"},
        },
        {"key.json": json.dumps({**ELSEWHERE, "service_account_impersonation_url": IMPERSONATE})},
    ),
    "google: machine": Case(Google(), GAR, TOKEN, {"K_SERVICE": "x"}, {f"GET {METADATA}": GRANT}),
    "google: not a machine of Google's": Case(
        Google("/nonexistent"), GAR, ANONYMOUS, {}, {f"GET {METADATA}": GRANT}
    ),
    "google: silent machine": Case(Google(), GAR, ANONYMOUS, {"K_SERVICE": "x"}),
    "acr: principal": Case(
        Acr(),
        ACR,
        Credential("client", "secret"),
        {"AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "secret"},
    ),
    "acr: workload identity": Case(
        Acr(),
        ACR,
        REFRESH,
        {
            "AZURE_CLIENT_ID": "client",
            "AZURE_TENANT_ID": "tenant",
            "AZURE_FEDERATED_TOKEN_FILE": "{home}/token",
        },
        {
            "POST https://login.microsoftonline.com/tenant/oauth2/v2.0/token": GRANT,
            **EXCHANGE,
        },
        {"token": "jwt"},
    ),
    "acr: managed identity": Case(
        Acr(), ACR, REFRESH, {}, {f"GET {ENTRA}{MANAGEMENT}": GRANT, **EXCHANGE}
    ),
    "acr: chosen managed identity": Case(
        Acr(),
        ACR,
        REFRESH,
        {"AZURE_CLIENT_ID": "client"},
        {f"GET {ENTRA}{MANAGEMENT}&client_id=client": GRANT, **EXCHANGE},
    ),
    "acr: none": Case(Acr(), ACR, ANONYMOUS),
    "github": Case(
        GitHub(), "ghcr.io", Credential("me", "t"), {"GITHUB_TOKEN": "t", "GITHUB_ACTOR": "me"}
    ),
    "github: none": Case(GitHub(), "ghcr.io", ANONYMOUS),
    "gitlab": Case(
        GitLab(),
        "registry.gitlab.example:5050",
        Credential("u", "p"),
        {
            "CI_REGISTRY": "registry.gitlab.example:5050",
            "CI_REGISTRY_USER": "u",
            "CI_REGISTRY_PASSWORD": "p",
            "CI_JOB_TOKEN": "j",
        },
    ),
    "gitlab: job": Case(
        GitLab(),
        "registry.gitlab.example",
        Credential("gitlab-ci-token", "j"),
        {"CI_REGISTRY": "registry.gitlab.example", "CI_JOB_TOKEN": "j"},
    ),
    "gitlab: dependency proxy": Case(
        GitLab(),
        "gitlab.example:443",
        Credential("u", "p"),
        {
            "CI_DEPENDENCY_PROXY_SERVER": "gitlab.example:443",
            "CI_DEPENDENCY_PROXY_USER": "u",
            "CI_DEPENDENCY_PROXY_PASSWORD": "p",
        },
    ),
    "gitlab: another host": Case(
        GitLab(),
        "registry.example",
        ANONYMOUS,
        {"CI_REGISTRY": "registry.gitlab.example", "CI_JOB_TOKEN": "j"},
    ),
    "env": Case(
        Environment(),
        "my-registry.example:5000",
        Credential("u", "p"),
        {
            "KANIKO_MY_REGISTRY_EXAMPLE_5000_USER": "u",
            "KANIKO_MY_REGISTRY_EXAMPLE_5000_PASSWORD": "p",
        },
    ),
    "env: parent": Case(
        Environment(),
        "a.b.example",
        Credential("u", "p"),
        {"KANIKO_B_EXAMPLE_USER": "u", "KANIKO_B_EXAMPLE_PASSWORD": "p"},
    ),
    "env: Docker Hub": Case(
        Environment(),
        "docker.io",
        Credential("u", "p"),
        {"KANIKO_INDEX_DOCKER_IO_USER": "u", "KANIKO_INDEX_DOCKER_IO_PASSWORD": "p"},
    ),
}


def find(case: Case, home: Path, services: Services | None = None) -> Credential:
    """What the case's source finds, on a clock that stands at 0."""
    for name, text in case.files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    environ = {name: value.replace("{home}", str(home)) for name, value in case.environ.items()}
    around = Surroundings(environ, str(home), services or Services(case.answers), lambda: NOW)
    assert case.source.serves(case.host)

    async def main() -> Credential:
        began = trio.current_time()
        found = await case.source.login(case.host, around)
        return Credential(
            found.username,
            found.password,
            found.identity_token,
            expires=found.expires - began,
        )

    return trio.run(main, clock=trio.testing.MockClock())


@pytest.mark.parametrize("name", CASES)
def test_places(name: str, shm_path: Path) -> None:
    """Each place gives its login, with the end that the service said."""
    case = CASES[name]
    found = find(case, shm_path)
    assert found == case.login
    assert found.anonymous == case.login.anonymous


def test_what_ecr_is_asked(shm_path: Path) -> None:
    """The request is signed for the registry's region, with the session of the instance's role."""
    case = CASES["ecr: instance"]
    services = Services(case.answers)
    find(case, shm_path, services)
    headers = dict(services.asked[-1].headers)
    assert headers["X-Amz-Target"].endswith(".GetAuthorizationToken")
    assert "/eu-west-1/ecr/aws4_request" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "t"
    assert [question.local for question in services.asked] == [True, True, True, False]
    assert dict(services.asked[2].headers) == {"X-aws-ec2-metadata-token": "session"}


def test_what_azure_is_asked(shm_path: Path) -> None:
    """The exchange names the registry, the tenant and Entra's token, and goes to the registry itself."""
    case = CASES["acr: workload identity"]
    services = Services(case.answers)
    find(case, shm_path, services)
    first, last = (parse_qs(question.body.decode()) for question in services.asked)
    assert first["client_assertion"] == ["jwt"]
    assert last == {
        "grant_type": ["access_token"],
        "service": [ACR],
        "access_token": ["t"],
        "tenant": ["tenant"],
    }


def test_what_googles_exchange_is_asked(shm_path: Path) -> None:
    """Another provider's token is fetched with its headers, and handed to Google alone."""
    case = CASES["google: another provider, another account"]
    services = Services(case.answers)
    find(case, shm_path, services)
    assert dict(services.asked[0].headers) == {"Authorization": "bearer x"}
    assert parse_qs(services.asked[1].body.decode())["subject_token"] == ["jwt"]
    assert dict(services.asked[2].headers)["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("ecr: environment", {"answers": {ECR_API: 400}}, NotAuthorized, "their words"),
        ("ecr: environment", {"answers": {ECR_API: {}}}, RegistryError, "authorizationData"),
        ("ecr: environment", {"answers": {ECR_API: b"nonsense"}}, RegistryError, "no JSON"),
        (
            "ecr: environment",
            {"answers": {ECR_API: {"authorizationData": [{"authorizationToken": "?"}]}}},
            RegistryError,
            "damaged",
        ),
        ("ecr: web identity", {"files": {}}, InputError, "cannot be read"),
        ("ecr: shared file", {"files": {".aws/credentials": "?"}}, InputError, "damaged"),
        (
            "ecr: pod identity",
            {"environ": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example/"}},
            InputError,
            "neither https",
        ),
        ("google: person", {"answers": {}}, RegistryError, "nobody"),
        (
            "google: key of a service account",
            {"files": {"key.json": "[]"}},
            InputError,
            "no file of Google",
        ),
        (
            "google: another provider",
            {"files": {"key.json": json.dumps({**ELSEWHERE, "token_url": "https://evil.example"})}},
            InputError,
            "not Google's",
        ),
        (
            "acr: managed identity",
            {"answers": {f"GET {ENTRA}{MANAGEMENT}": {"access_token": "a\nb"}}},
            RegistryError,
            "no access_token",
        ),
    ],
)
def test_refusals(
    name: str, change: Mapping[str, Any], error: type[Exception], words: str, shm_path: Path
) -> None:
    """What is refused or damaged is said, without a secret."""
    case = CASES[name]
    changed = Case(
        case.source,
        case.host,
        ANONYMOUS,
        change.get("environ", case.environ),
        change.get("answers", case.answers),
        change.get("files", case.files),
    )
    with pytest.raises(error, match=words) as caught:
        find(changed, shm_path)
    assert "secret" not in str(caught.value)


def test_a_login_is_kept_until_it_ends() -> None:
    """The service is asked once by many, and again when the login is about to end."""
    services = Services({ECR_API: PASSWORD})
    around = Surroundings(ENV_KEYS, "/nonexistent", services, lambda: NOW)
    keychain = BuiltInKeychain(sources(), around)

    async def main() -> None:
        for _ in range(3):
            assert (await keychain.credential(ECR, "a")).password == "password"
        assert await keychain.credential("registry.example", "a") == ANONYMOUS
        assert len(services.asked) == 1
        await trio.sleep(43200)
        await keychain.credential(ECR, "a")
        assert len(services.asked) == 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
