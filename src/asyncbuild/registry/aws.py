"""Logins for Amazon's registries: ECR and ECR Public (``GetAuthorizationToken``).

The keys that the request is signed with come from (AWS SDKs, "Standardized credential providers"): the
environment; the token that Kubernetes gives a service account (AWS_WEB_IDENTITY_TOKEN_FILE); the shared
credentials file (plain keys only); the agent of a container (ECS, EKS Pod Identity); the instance (IMDSv2).
"""

from __future__ import annotations

import base64
import binascii
import configparser
import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from asyncbuild.errors import InputError, RegistryError
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.cloud import Question, Surroundings, home_file, text_of
from asyncbuild.registry.sigv4 import AwsKeys, Signer

_PRIVATE = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?P<domain>amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws)"
)
_PUBLIC = "public.ecr.aws"
_ECS = "http://169.254.170.2"
_IMDS = "http://169.254.169.254"
_AGENTS = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23", "localhost", "127.0.0.1"})
_TARGETS = {
    "ecr": "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
    "ecr-public": "SpencerFrontendService.GetAuthorizationToken",
}


class Ecr:
    """The source of logins for ECR."""

    name = "ecr"

    def serves(self, registry: str) -> bool:
        """ECR's own hosts, whole."""
        return registry == _PUBLIC or _PRIVATE.fullmatch(registry) is not None

    async def login(self, registry: str, around: Surroundings) -> Credential:
        """User AWS and a password for twelve hours; anonymous without keys."""
        match = _PRIVATE.fullmatch(registry)
        region = match["region"] if match else "us-east-1"
        keys = await find_keys(around, region, instance=match is not None)
        if keys is None:
            return ANONYMOUS
        service = "ecr" if match else "ecr-public"
        url = around.get("AWS_ENDPOINT_URL_ECR") or _endpoint(match)
        body = b"{}"
        headers = (
            ("Content-Type", "application/x-amz-json-1.1"),
            ("X-Amz-Target", _TARGETS[service]),
        )
        signed = Signer(keys, region, service, around.now()).sign("POST", url, headers, body)
        what = f"a login for {registry}"
        document = await around.question(what, Question("POST", url, signed, body))
        return _read_login(document, what, around)


def _endpoint(match: re.Match[str] | None) -> str:
    if match is None:
        return "https://api.ecr-public.us-east-1.amazonaws.com/"
    region, domain = match["region"], match["domain"]
    if domain == "on.aws":
        return f"https://ecr{match['fips'] or ''}.{region}.api.aws/"
    return f"https://{'ecr-fips' if match['fips'] else 'api.ecr'}.{region}.{domain}/"


def _read_login(document: Mapping[str, Any], what: str, around: Surroundings) -> Credential:
    data = document.get("authorizationData")
    entry = data[0] if isinstance(data, list) and data else data
    if not isinstance(entry, dict):
        raise RegistryError(f"{what}: the answer has no authorizationData")
    try:
        pair = base64.b64decode(text_of(entry, "authorizationToken", what), validate=True).decode()
    except (ValueError, binascii.Error):
        raise RegistryError(f"{what}: the answer's token is damaged") from None
    user, _, password = pair.partition(":")
    expires = entry.get("expiresAt")
    end = around.until(float(expires)) if isinstance(expires, int | float) else float("inf")
    return Credential(user, password, expires=end)


async def find_keys(around: Surroundings, region: str, *, instance: bool) -> AwsKeys | None:
    """The keys of this place, None if it has none; ``instance``: the instance may be asked for them."""
    if around.get("AWS_ACCESS_KEY_ID") and around.get("AWS_SECRET_ACCESS_KEY"):
        key_id, secret = around.get("AWS_ACCESS_KEY_ID"), around.get("AWS_SECRET_ACCESS_KEY")
        return AwsKeys(key_id, secret, around.get("AWS_SESSION_TOKEN"))
    if around.get("AWS_WEB_IDENTITY_TOKEN_FILE") and around.get("AWS_ROLE_ARN"):
        return await _web_identity(around, region)
    found = _from_file(around) or await _from_agent(around)
    if found is None and instance and around.get("AWS_EC2_METADATA_DISABLED").lower() != "true":
        found = await _from_instance(around)
    return found


async def _web_identity(around: Surroundings, region: str) -> AwsKeys:
    """STS, AssumeRoleWithWebIdentity: one request without a signature."""
    token = around.read(around.get("AWS_WEB_IDENTITY_TOKEN_FILE")).strip()
    fields = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": around.get("AWS_ROLE_ARN"),
        "RoleSessionName": around.get("AWS_ROLE_SESSION_NAME") or "asyncbuild",
        "WebIdentityToken": token,
    }
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = around.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.{domain}/"
    headers = (
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Accept", "application/json"),
    )
    question = Question("POST", url, headers, urlencode(fields).encode("ascii"))
    document: Any = await around.question("the role of AWS_ROLE_ARN", question)
    for name in ("AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult"):
        document = document.get(name) if isinstance(document, dict) else None
    credentials = document.get("Credentials") if isinstance(document, dict) else None
    return _read_keys(credentials, "the role of AWS_ROLE_ARN", "SessionToken")


def _from_file(around: Surroundings) -> AwsKeys | None:
    named = around.get("AWS_SHARED_CREDENTIALS_FILE")
    path = named or home_file(around, ".aws", "credentials")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(around.read(path), path)
    except InputError:
        if named:
            raise
        return None
    except configparser.Error as error:
        raise InputError(f"{path} is damaged: {type(error).__name__}") from None
    profile = around.get("AWS_PROFILE") or "default"
    if not parser.has_section(profile):
        return None
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    key_id, secret, token = (parser.get(profile, name, fallback="") for name in names)
    return AwsKeys(key_id, secret, token) if key_id and secret else None


async def _from_agent(around: Surroundings) -> AwsKeys | None:
    relative = around.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = f"{_ECS}{relative}" if relative else around.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _AGENTS:
        raise InputError("AWS_CONTAINER_CREDENTIALS_FULL_URI names neither https nor this machine")
    token = around.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if around.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        token = around.read(around.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")).strip()
    headers = (("Authorization", token),) if token else ()
    question = Question("GET", url, headers, local=parts.scheme != "https")
    return _read_keys(
        await around.question("the keys of this container", question), "they", "Token"
    )


async def _from_instance(around: Surroundings) -> AwsKeys | None:
    """IMDSv2: a token, the role's name, its keys."""
    base = (around.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _IMDS).rstrip("/")
    lifetime = (("X-aws-ec2-metadata-token-ttl-seconds", "60"),)
    token = await around.local(Question("PUT", f"{base}/latest/api/token", lifetime, local=True))
    if token is None:
        return None
    proof = (("X-aws-ec2-metadata-token", token.body.decode("latin-1").strip()),)
    place = f"{base}/latest/meta-data/iam/security-credentials/"
    roles = await around.local(Question("GET", place, proof, local=True))
    role = roles.body.decode("latin-1").split("\n")[0].strip() if roles else ""
    if not re.fullmatch(r"[\w+=,.@-]+", role):
        return None
    keys = await around.local(Question("GET", place + role, proof, local=True))
    if keys is None:
        return None
    try:
        return _read_keys(json.loads(keys.body), "the keys of this instance", "Token")
    except ValueError:
        return None


def _read_keys(document: object, what: str, token: str) -> AwsKeys:
    if not isinstance(document, dict):
        raise RegistryError(f"{what}: the answer has no keys")
    names = ("AccessKeyId", "SecretAccessKey", token)
    expires = document.get("Expiration")
    end = float("inf")
    if isinstance(expires, int | float):
        end = float(expires)
    elif isinstance(expires, str):
        try:
            end = dt.datetime.fromisoformat(expires).timestamp()
        except ValueError:
            end = float("inf")
    key_id, secret, session = (text_of(document, name, what) for name in names)
    return AwsKeys(key_id, secret, session, end)
