"""``build --call`` and ``build --check``: questions instead of a build."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from asyncbuild.cli import main
from asyncbuild.cli.call import Call
from asyncbuild.errors import UsageError

DOCKERFILE = """\
# VERSION of everything
ARG VERSION=1
ARG OTHER=$VERSION-x
FROM scratch AS base
# MODE how to build
ARG MODE=fast
ARG VERSION
ARG UNSET
# app what is shipped
FROM base AS app
RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/c make
FROM x:$OTHER
COPY --from=app / /
"""


def ask(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What a call prints."""
    (path / "Dockerfile").write_text(DOCKERFILE)
    assert main(["build", *options, str(path)]) == 0
    return capsys.readouterr().out


def test_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage with its description; one without a name is called by its number."""
    text = ask(tmp_path, capsys, "--call", "targets")
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    assert lines == [
        ["TARGET", "DESCRIPTION"],
        ["base"],
        ["app", "what is shipped"],
        ["2", "(default)"],
    ]
    value = json.loads(ask(tmp_path, capsys, "--call", "targets,format=json"))
    assert [item.get("base") for item in value["targets"]] == ["scratch", "base", "x:$OTHER"]
    assert [item.get("default", False) for item in value["targets"]] == [False, False, True]


def test_outline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The arguments with what they are now, the secrets, agents and caches of a target."""
    options = ("--target", "app", "--build-arg", "MODE=slow", "--call", "outline,format=json")
    value = json.loads(ask(tmp_path, capsys, *options))
    assert value["name"] == "app"
    assert value["description"] == "what is shipped"
    assert [(a["name"], a.get("value"), a.get("description")) for a in value["args"]] == [
        ("VERSION", "1", "of everything"),
        ("MODE", "slow", "how to build"),
        ("UNSET", None, None),
    ]
    assert [(s["name"], s["required"]) for s in value["secrets"]] == [("token", True)]
    assert [s["name"] for s in value["ssh"]] == ["default"]
    assert [c["ID"] for c in value["cache"]] == ["/c"]


def test_outline_of_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments that a FROM uses count, and those that their defaults use."""
    value = json.loads(ask(tmp_path, capsys, "--call", "outline,format=json"))
    names = [item["name"] for item in value["args"]]
    assert names == ["VERSION", "OTHER", "MODE", "UNSET"]
    text = ask(tmp_path, capsys, "--call", "outline")
    assert text.startswith("TARGET:   (default)\n")
    assert "token    true" in text


@pytest.mark.integration
def test_check_asks_for_the_bases(
    tmp_path: Path, busybox_base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --check the bases' variables are known, so one that nothing defines is found."""
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox_base}\nWORKDIR $PATH\nUSER $NOBODY\n")
    assert main(["check", str(tmp_path)]) == 0
    assert main(["build", "--check", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "$NOBODY is not defined here" in text
    assert "$PATH" not in text.replace("WORKDIR $PATH", "")


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("build", None),
        ("check", Call("check")),
        ("lint", Call("check")),
        ("check,format=sarif", Call("check", "sarif")),
        ("targets,format=json", Call("targets", "json")),
        ("outline,format=text", Call("outline")),
    ],
)
def test_spelling(text: str, call: Call | None) -> None:
    """A question has a name and may have a format."""
    assert Call.parse(text) == call


@pytest.mark.parametrize("text", ["", "chek", "targets,format=sarif", "check,form=json", "build,x"])
def test_misspelling(text: str) -> None:
    """Anything else is a usage error with a hint."""
    with pytest.raises(UsageError) as caught:
        Call.parse(text)
    assert caught.value.hint


def layout(path: Path, *triggers: str) -> Path:
    """An OCI layout with one image that has ONBUILD triggers and the variable HERE, and no layer."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(value: object) -> dict[str, object]:
        raw = json.dumps(value).encode()
        name = hashlib.sha256(raw).hexdigest()
        (blobs / name).write_bytes(raw)
        return {"digest": f"sha256:{name}", "size": len(raw)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"OnBuild": list(triggers), "Env": ["HERE=1"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", **put(config)}
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": described, "layers": []}
    index = {"schemaVersion": 2, "manifests": [{"mediaType": media_type, **put(manifest)}]}
    (path / "index.json").write_text(json.dumps(index))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def test_bases_in_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every question reads them: triggers have arguments and mounts too, the base's variables are known, and
    no registry is asked.
    """
    trigger = "RUN --mount=type=secret,id=key,required make $LATER"
    place = layout(tmp_path / "layout", "ARG LATER=2", trigger)
    (tmp_path / "Dockerfile").write_text("FROM img AS app\nWORKDIR $HERE\nUSER $NOBODY\n")
    options = ("--build-context", f"img=oci-layout://{place}", "--platform", "linux/amd64")
    assert main(["build", "--call", "outline,format=json", *options, str(tmp_path)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [(item["name"], item["value"]) for item in value["args"]] == [("LATER", "2")]
    assert [item["name"] for item in value["secrets"]] == ["key"]
    assert main(["build", "--call", "targets,format=json", *options, str(tmp_path)]) == 0
    targets = json.loads(capsys.readouterr().out)["targets"]
    assert [(item["name"], item["base"]) for item in targets] == [("app", "img")]
    assert main(["build", "--check", *options, str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "$NOBODY is not defined here" in text
    assert "$HERE" not in text.replace("WORKDIR $HERE", "")


def test_a_layout_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, and nothing else happens."""
    (tmp_path / "Dockerfile").write_text("FROM img\n")
    context = f"img=oci-layout://{tmp_path}/none"
    for call in ("outline", "check"):
        assert main(["build", "--call", call, "--build-context", context, str(tmp_path)]) != 0
        assert "is no OCI layout" in capsys.readouterr().err
