"""Logins for Azure Container Registry ("Authenticate with an Azure container registry").

A service principal with a secret is a user and a password as they stand. A token of Kubernetes (workload
identity) or of the machine (managed identity) becomes a token of Entra ID, and that the registry's
refresh token, which is an identity token to us.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote, urlencode

from asyncbuild.errors import InputError
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.cloud import Question, Surroundings, text_of

_HOSTS = re.compile(r"[a-z0-9-]+\.azurecr\.(?:io|cn|us)")
_RESOURCES = {
    "io": "https://management.azure.com/",
    "cn": "https://management.chinacloudapi.cn/",
    "us": "https://management.usgovcloudapi.net/",
}
_AUTHORITIES = {
    "io": "https://login.microsoftonline.com/",
    "cn": "https://login.chinacloudapi.cn/",
    "us": "https://login.microsoftonline.us/",
}
_IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"
_FORM = ("Content-Type", "application/x-www-form-urlencoded")
_REFRESH_SECONDS = 3 * 3600.0 - 600.0


class Acr:
    """The source of logins for ``azurecr.io``."""

    name = "acr"

    def serves(self, registry: str) -> bool:
        """Azure's own hosts, whole."""
        return _HOSTS.fullmatch(registry) is not None

    async def login(self, registry: str, around: Surroundings) -> Credential:
        """A principal's password, or the registry's own token; anonymous if this place has neither."""
        client, secret = around.get("AZURE_CLIENT_ID"), around.get("AZURE_CLIENT_SECRET")
        if client and secret:
            return Credential(client, secret)
        cloud = registry.rpartition(".")[2]
        if client and around.get("AZURE_FEDERATED_TOKEN_FILE") and around.get("AZURE_TENANT_ID"):
            token = await _federated(around, cloud)
        else:
            token = await _managed(around, cloud)
        if not token:
            return ANONYMOUS
        fields = {"grant_type": "access_token", "service": registry, "access_token": token}
        if around.get("AZURE_TENANT_ID"):
            fields["tenant"] = around.get("AZURE_TENANT_ID")
        body = urlencode(fields).encode("ascii")
        what = f"a login for {registry}"
        question = Question("POST", f"https://{registry}/oauth2/exchange", (_FORM,), body)
        document = await around.question(what, question)
        end = around.until(around.now() + _REFRESH_SECONDS)
        return Credential(identity_token=text_of(document, "refresh_token", what), expires=end)


async def _federated(around: Surroundings, cloud: str) -> str:
    tenant = around.get("AZURE_TENANT_ID")
    if not re.fullmatch(r"[\w.-]+", tenant):
        raise InputError("AZURE_TENANT_ID is no tenant")
    authority = around.get("AZURE_AUTHORITY_HOST") or _AUTHORITIES[cloud]
    fields = {
        "grant_type": "client_credentials",
        "client_id": around.get("AZURE_CLIENT_ID"),
        "scope": f"{_RESOURCES[cloud]}.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": around.read(around.get("AZURE_FEDERATED_TOKEN_FILE")).strip(),
    }
    url = f"{authority.rstrip('/')}/{tenant}/oauth2/v2.0/token"
    what = "a token for the identity of AZURE_CLIENT_ID"
    question = Question("POST", url, (_FORM,), urlencode(fields).encode("ascii"))
    return text_of(await around.question(what, question), "access_token", what)


async def _managed(around: Surroundings, cloud: str) -> str:
    query = f"api-version=2018-02-01&resource={quote(_RESOURCES[cloud], safe='')}"
    if around.get("AZURE_CLIENT_ID"):
        query += f"&client_id={quote(around.get('AZURE_CLIENT_ID'), safe='')}"
    question = Question("GET", f"{_IMDS}?{query}", (("Metadata", "true"),), local=True)
    reply = await around.local(question)
    try:
        document = json.loads(reply.body) if reply else {}
    except ValueError:
        return ""
    return text_of(document, "access_token", "the machine's identity") if document else ""
