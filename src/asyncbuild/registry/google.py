"""Logins for Google's registries: Container Registry and Artifact Registry.

Where they come from ("Application Default Credentials"; "Configure authentication to Artifact Registry"):
an access token in the environment; the file of GOOGLE_APPLICATION_CREDENTIALS, else gcloud's own: the key
of a service account is a password as it stands, a person's is exchanged for a token, an identity of
another provider (a file or a URL has its token) too; on a machine of Google's, its metadata server.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import trio

from asyncbuild.errors import InputError, RegistryError
from asyncbuild.registry.auth import ANONYMOUS, Credential
from asyncbuild.registry.cloud import RENEW_SECONDS, Question, Surroundings, home_file, text_of

_HOSTS = re.compile(r"(?:[a-z0-9-]+\.)?gcr\.io|[a-z0-9-]+-docker\.pkg\.dev|docker\.pkg\.dev")
_TOKENS = ("GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_PRODUCT = "/sys/class/dmi/id/product_name"
_FORM = ("Content-Type", "application/x-www-form-urlencoded")


class Google:
    """The source of logins for ``gcr.io`` and ``pkg.dev``."""

    name = "google"

    def __init__(self, product_file: str = _PRODUCT) -> None:
        """``product_file`` says what machine this is: away from Google nobody is asked."""
        self._product_file = product_file

    def serves(self, registry: str) -> bool:
        """Google's own hosts, whole."""
        return _HOSTS.fullmatch(registry) is not None

    async def login(self, registry: str, around: Surroundings) -> Credential:  # noqa: ARG002
        """A token's or a key's login; anonymous if this place has none."""
        for name in _TOKENS:
            if around.get(name):
                return _token(around.get(name))
        named = around.get("GOOGLE_APPLICATION_CREDENTIALS")
        config = around.get("CLOUDSDK_CONFIG") or home_file(around, ".config", "gcloud")
        path = named or os.path.join(config, "application_default_credentials.json")
        if named or os.path.exists(path):  # noqa: ASYNC240 - a local file, once
            return await _from_file(path, around)
        return await self._from_machine(around)

    async def _from_machine(self, around: Surroundings) -> Credential:
        host = around.get("GCE_METADATA_HOST")
        if not host and not (around.get("K_SERVICE") or self._is_google()):
            return ANONYMOUS
        place = f"http://{host or 'metadata.google.internal'}/computeMetadata/v1"
        url = f"{place}/instance/service-accounts/default/token"
        reply = await around.local(
            Question("GET", url, (("Metadata-Flavor", "Google"),), local=True)
        )
        if reply is None:
            return ANONYMOUS
        try:
            document = json.loads(reply.body)
        except ValueError:
            return ANONYMOUS
        return _granted(document, "the metadata server's token")

    def _is_google(self) -> bool:
        try:
            with open(self._product_file, encoding="ascii", errors="replace") as file:
                return file.read().strip() in ("Google", "Google Compute Engine")
        except OSError:
            return False


def _token(text: str, seconds: float | None = None) -> Credential:
    end = float("inf") if seconds is None else trio.current_time() + seconds - RENEW_SECONDS
    return Credential("oauth2accesstoken", text, expires=end)


def _granted(document: Mapping[str, Any], what: str) -> Credential:
    seconds = document.get("expires_in")
    lifetime = float(seconds) if isinstance(seconds, int | float) else 600.0
    return _token(text_of(document, "access_token", what), lifetime)


async def _from_file(path: str, around: Surroundings) -> Credential:
    text = around.read(path)
    try:
        document = json.loads(text)
        kind = document["type"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no file of Google credentials") from None
    if kind == "service_account":
        return Credential("_json_key", " ".join(text.split("\n")))
    if kind == "authorized_user":
        names = ("client_id", "client_secret", "refresh_token")
        fields = {name: str(document.get(name) or "") for name in names}
        return await _exchange(around, {**fields, "grant_type": "refresh_token"}, path)
    if kind == "external_account":
        return await _from_other_provider(document, path, around)
    raise InputError(f"{path}: credentials of type {kind!r} are not supported")


async def _exchange(around: Surroundings, fields: Mapping[str, str], path: str) -> Credential:
    url = "https://oauth2.googleapis.com/token"
    question = Question("POST", url, (_FORM,), urlencode(fields).encode("ascii"))
    what = f"a token for the login in {path}"
    return _granted(await around.question(what, question), what)


async def _from_other_provider(
    document: Mapping[str, Any], path: str, around: Surroundings
) -> Credential:
    """Workload identity federation: another provider's token for Google's, then a service account's."""
    what = f"a token for the identity in {path}"
    subject = await _subject_token(document.get("credential_source"), path, around)
    fields = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": str(document.get("audience") or ""),
        "subject_token_type": str(document.get("subject_token_type") or ""),
        "subject_token": subject,
        "scope": _SCOPE,
    }
    url = _google_url(document.get("token_url") or "https://sts.googleapis.com/v1/token", path)
    body = urlencode(fields, quote_via=quote).encode("ascii")
    granted = _granted(await around.question(what, Question("POST", url, (_FORM,), body)), what)
    if not document.get("service_account_impersonation_url"):
        return granted
    url = _google_url(document["service_account_impersonation_url"], path)
    headers = (
        ("Authorization", f"Bearer {granted.password}"),
        ("Content-Type", "application/json"),
    )
    question = Question("POST", url, headers, json.dumps({"scope": [_SCOPE]}).encode())
    answer = await around.question(what, question)
    return _token(text_of(answer, "accessToken", what), 3600.0)


def _google_url(value: object, path: str) -> str:
    """A URL of Google's: a file of credentials must not send tokens elsewhere."""
    parts = urlsplit(str(value))
    if parts.scheme != "https" or not (parts.hostname or "").endswith(".googleapis.com"):
        raise InputError(f"{path} names a service that is not Google's")
    return str(value)


async def _subject_token(source: object, path: str, around: Surroundings) -> str:
    if not isinstance(source, dict) or not (source.get("file") or source.get("url")):
        raise InputError(f"{path}: only a file or a URL can be the source of an identity")
    if source.get("file"):
        text = around.read(str(source["file"]))
    else:
        given = source.get("headers")
        headers = (
            tuple((str(k), str(v)) for k, v in given.items()) if isinstance(given, dict) else ()
        )
        reply = await around.ask(Question("GET", str(source["url"]), headers))
        if reply.status != 200:
            raise RegistryError(f"{path}: its source of an identity answers {reply.status}")
        text = reply.body.decode("utf-8", "replace")
    form = source.get("format")
    if not isinstance(form, dict) or form.get("type") != "json":
        return str(text).strip()
    try:
        return str(json.loads(text)[str(form.get("subject_token_field_name"))])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: its source of an identity has no token") from None
