"""``asyncbuild check``: what it prints in each form, and how it ends."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from asyncbuild.cli import main

FAULTY = "FROM scratch AS Build\n# check=skip=all\nWORKDIR app\nENV a b\nCOPY gone /x\n"


def context(path: Path, dockerfile: str) -> str:
    """A context with this Dockerfile and an ignore file."""
    (path / "Dockerfile").write_text(dockerfile)
    (path / ".dockerignore").write_text("gone\n")
    return str(path)


def test_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each finding has its place, its excerpt, its rule, and what to do; the exit code is 1."""
    assert main(["check", context(tmp_path, FAULTY)]) == 1
    text = capsys.readouterr().out
    file = tmp_path / "Dockerfile"
    assert f"{file}:1:17: the stage's name Build is not in lower case (StageNameCasing)" in text
    assert "  >>>    4 | ENV a b\n  do: Write NAME=value" in text
    assert "  see: docs/reference/checks.md#copyignoredfile" in text
    assert text.endswith(f"{file}: 3 findings\n")


def test_nothing_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Dockerfile without findings ends with 0."""
    assert main(["check", context(tmp_path, "FROM scratch\nWORKDIR /\n")]) == 0
    assert capsys.readouterr().out.endswith("no findings\n")


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The members are those of BuildKit's frontend.lint, and ours beside them."""
    assert main(["check", "--format", "json", context(tmp_path, FAULTY)]) == 1
    value = json.loads(capsys.readouterr().out)
    assert [item["ruleName"] for item in value["warnings"]] == [
        "StageNameCasing",
        "LegacyKeyValueFormat",
        "CopyIgnoredFile",
    ]
    last = value["warnings"][-1]
    assert last["location"]["ranges"] == [
        {"start": {"line": 5, "character": 5}, "end": {"line": 5}}
    ]
    assert set(last) == {"ruleName", "description", "url", "detail", "advice", "location"}
    assert base64.b64decode(value["sources"][0]["data"]).decode() == FAULTY
    assert "buildError" not in value


def test_sarif(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SARIF 2.1.0: each result names a rule of the driver, and a region of the file."""
    assert main(["check", "--advice", "--format", "sarif", context(tmp_path, FAULTY)]) == 1
    value = json.loads(capsys.readouterr().out)
    (run,) = value["runs"]
    assert value["version"] == "2.1.0"
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        (place,) = result["locations"]
        assert place["physicalLocation"]["region"]["startLine"] >= 1
        assert place["physicalLocation"]["artifactLocation"]["uri"].endswith("Dockerfile")
        assert result["message"]["text"]


def test_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is optional is reported when it is asked for."""
    directory = context(tmp_path, "FROM a\nCOPY . /x\n")
    assert main(["check", directory]) == 0
    assert main(["check", "--advice", directory]) == 1
    (tmp_path / ".git").mkdir()
    assert main(["check", "--advice", directory]) == 1
    text = capsys.readouterr().out
    assert "UnpinnedBase" in text
    assert "UncacheableCopy" in text


@pytest.mark.parametrize("form", ["text", "json", "sarif"])
@pytest.mark.parametrize(
    ("dockerfile", "known"),
    [
        ("FROM scratch AS Build\nCOPY --from=later / /\nFROM scratch AS later\n", True),
        ("FROM scratch AS Build\nNONSENSE\n", False),
    ],
)
def test_a_wrong_dockerfile(
    dockerfile: str, known: object, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is part of the report; what was found before it, too; the exit code is the error's."""
    assert main(["check", "--format", form, context(tmp_path, dockerfile)]) == 65
    text = capsys.readouterr().out
    assert ("StageNameCasing" in text) == known
    assert ("unknown instruction" in text) != known
    if form == "json":
        assert json.loads(text)["buildError"]["location"]["ranges"][0]["start"]["line"] == 2


def test_target(tmp_path: Path) -> None:
    """Without a target every stage is looked at, with one those that it needs."""
    directory = context(tmp_path, "FROM scratch AS a\nENV x y\nFROM scratch AS b\n")
    assert main(["check", directory]) == 1
    assert main(["check", "--target", "b", directory]) == 0
