"""Signatures of requests to AWS, against published examples."""

from __future__ import annotations

import datetime as dt

import pytest

from asyncbuild.registry.sigv4 import AwsKeys, Signer

KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
MOMENT = dt.datetime(2015, 8, 30, 12, 36, tzinfo=dt.UTC).timestamp()
FORM = (("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),)


@pytest.mark.parametrize(
    ("service", "url", "headers", "signature"),
    [
        pytest.param(
            "service",
            "https://example.amazonaws.com/",
            (),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            id="AWS's test suite: get-vanilla",
        ),
        pytest.param(
            "iam",
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            FORM,
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            id="AWS General Reference: ListUsers",
        ),
    ],
)
def test_published_signatures(
    service: str, url: str, headers: tuple[tuple[str, str], ...], signature: str
) -> None:
    """The signatures are those that AWS published."""
    signed = dict(Signer(KEYS, "us-east-1", service, MOMENT).sign("GET", url, headers))
    names = "content-type;host;x-amz-date" if headers else "host;x-amz-date"
    assert signed["X-Amz-Date"] == "20150830T123600Z"
    assert signed["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )


def test_a_session_token_is_signed() -> None:
    """Keys that end come with a token, which is sent and signed; nothing secret is shown."""
    keys = AwsKeys("id", "secret", "token")
    signed = dict(Signer(keys, "r", "s", MOMENT).sign("POST", "https://h.example/", (), b"{}"))
    assert signed["X-Amz-Security-Token"] == "token"
    assert "x-amz-date;x-amz-security-token" in signed["Authorization"]
    assert "secret" not in repr(keys)
    assert "token=" not in repr(keys)
