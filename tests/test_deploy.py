"""The templates in deploy/: right by their schemas, and their scripts run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from asyncbuild.cli.arguments import parser
from asyncbuild.cli.kaniko_flags import EXECUTOR, read_flags
from asyncbuild.dockerfile.parser import parse_dockerfile
from support.kubernetes import problems
from support.registry import DockerRegistry

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
JOBS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def load(path: Path) -> Any:
    """A YAML document."""
    return YAML(typ="safe").load(path)


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("github/action.yml", "vendor.github-actions"),
        ("github/workflow.yml", "vendor.github-workflows"),
        ("gitlab/asyncbuild.gitlab-ci.yml", "vendor.gitlab-ci"),
    ],
)
def test_ci_files_are_valid(name: str, schema: str) -> None:
    """By the public schemas that check-jsonschema carries."""
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", schema, "--data-transform", "gitlab-ci"]
    if "gitlab" not in schema:
        command = command[:3]
    done = subprocess.run(
        [*command, str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_valid(path: Path) -> None:
    """By the API's types; what they tell executor it understands."""
    job = load(path)
    assert problems(job, "batch_v1", "Job") == []
    spec = job["spec"]["template"]["spec"]
    assert spec.get("hostUsers", True) is ("user-namespace" not in path.stem)
    context = spec["containers"][0].get("securityContext", {})
    if not spec.get("hostUsers", True):  # what test_backend_matrix.py shows to be enough for mounts
        assert (context["procMount"], context["capabilities"]) == (
            "Unmasked",
            {"add": ["SYS_ADMIN"]},
        )
    given = read_flags(EXECUTOR, spec["containers"][0]["args"])
    assert given.without_meaning == given.words == ()
    mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_wrong_jobs_are_found() -> None:
    """The check sees unknown names, missing ones and wrong types, with their places."""
    job = load(JOBS[0])
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["imagee"] = container.pop("name")
    job["spec"]["backoffLimit"] = "1"
    assert sorted(problems(job, "batch_v1", "Job")) == [
        "Job.spec.backoffLimit: '1' is not of type int",
        "Job.spec.template.spec.containers[0].imagee is unknown",
        "Job.spec.template.spec.containers[0].name is missing",
    ]


def test_the_task_is_valid() -> None:
    """What it uses it declares; its step is a container; parameters and results have Tekton's names."""
    path = DEPLOY / "tekton/task.yaml"
    task, text = load(path), path.read_text()
    assert (task["apiVersion"], task["kind"]) == ("tekton.dev/v1", "Task")
    assert problems(task["metadata"], "meta_v1", "ObjectMeta") == []
    spec = task["spec"]
    allowed = {"description", "params", "workspaces", "results", "volumes", "steps"}
    assert set(spec) <= allowed
    params = {item["name"]: item for item in spec["params"]}
    assert {"IMAGE", "DOCKERFILE", "CONTEXT", "EXTRA_ARGS"} <= set(params)
    assert [item["name"] for item in spec["results"]] == ["IMAGE_DIGEST", "IMAGE_URL"]
    used = set(re.findall(r"\$\(([a-z]+)\.([A-Za-z_]+)", text))
    declared = {("params", name) for name in params}
    declared |= {("results", item["name"]) for item in spec["results"]}
    declared |= {("workspaces", item["name"]) for item in spec["workspaces"]}
    assert used <= declared
    for step in spec["steps"]:
        container = {key: value for key, value in step.items() if key != "script"}
        assert problems(container, "core_v1", "Container") == []
    for volume in spec["volumes"]:
        assert problems(volume, "core_v1", "Volume") == []


def test_the_action_passes_what_it_takes() -> None:
    """Each input reaches the script, which uses it; each option of the script exists."""
    action = load(DEPLOY / "github/action.yml")
    script = (DEPLOY / "github/build.sh").read_text()
    runtime, step = action["runs"]["steps"]
    variables = {f"INPUT_{name.upper().replace('-', '_')}" for name in action["inputs"]}
    service = {"ACTIONS_RESULTS_URL": "url", "ACTIONS_RUNTIME_TOKEN": "token"}
    for name, output in service.items():
        assert step["env"].pop(name) == f"${{{{ steps.runtime.outputs.{output} }}}}"
        assert f"setOutput('{output}'" in runtime["with"]["script"]
        assert f"process.env.{name}" in runtime["with"]["script"]
    assert set(step["env"]) == variables
    for name, value in step["env"].items():
        assert value == f"${{{{ inputs.{name.removeprefix('INPUT_').lower().replace('_', '-')} }}}}"
        assert name in script
    options = set(re.findall(r"(?<=[ (])--[a-z-]+", script.partition('if [ "${INPUT_INSTALL')[0]))
    known = {option for action in build_parser()._actions for option in action.option_strings}
    assert options <= known


def build_parser() -> Any:
    """The options of ``asyncbuild build``."""
    (commands,) = (action for action in parser()._actions if action.dest == "command")
    assert isinstance(commands.choices, Mapping)
    return commands.choices["build"]


def test_the_dockerfile_has_its_targets() -> None:
    """The stages that the documentation names, the plain one last."""
    path = DEPLOY / "Dockerfile"
    stages = [stage.from_.name for stage in parse_dockerfile(path.read_bytes(), str(path)).stages]
    assert {"slim", "executor", "warmer", "debug"} <= set(stages)
    assert stages[-1] == "asyncbuild"


def test_the_own_image_builds_every_example() -> None:
    """scripts/own-image builds the image by itself, and with that image each of these."""
    directories = {path.name for path in (DEPLOY.parent / "examples").iterdir() if path.is_dir()}
    script = runpy.run_path(str(DEPLOY.parent / "scripts/own_image.py"))
    assert set(script["EXAMPLES"]) == directories
    stages = parse_dockerfile((DEPLOY / "Dockerfile").read_bytes(), "Dockerfile").stages
    assert set(script["TARGETS"]) <= {stage.from_.name for stage in stages}


@pytest.fixture
def programs(shm_path: Path) -> Path:
    """Both asyncbuild and executor as programs, in a directory for PATH."""
    directory = shm_path / "bin"
    directory.mkdir()
    text = f"#!{sys.executable}\nimport sys\nfrom asyncbuild.cli import main\nsys.exit(main())\n"
    for name in ("asyncbuild", "executor"):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


def run_script(script: list[str], directory: Path, environ: Mapping[str, str]) -> str:
    """Run a template's script in ``directory``, with the programs beside it."""
    path = f"{directory.parent / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
    home = {"PATH": path, "HOME": str(directory.parent), "TMPDIR": str(directory.parent)}
    done = subprocess.run(
        script, cwd=directory, env={**home, **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(shm_path: Path, programs: Path) -> Path:
    """A checked-out repository."""
    directory = shm_path / "project"
    directory.mkdir()
    (directory / "Dockerfile").write_text(
        "ARG BASE=busybox\nFROM $BASE\nARG VERSION\nRUN --mount=type=secret,id=key,required"
        ' test "$VERSION $(cat /run/secrets/key)" = "two words s=3"\n'
    )
    (directory / "Plain").write_text("ARG BASE=busybox\nFROM $BASE\nLABEL a=b\n")
    return directory


def digest_of(reference: str) -> str:
    """What skopeo finds under a name."""
    command = ["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}"]
    found = subprocess.run(
        [*command, f"docker://{reference}"], check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


@pytest.mark.integration
def test_the_action_builds_and_pushes(
    registry: DockerRegistry, busybox_base: str, project: Path
) -> None:
    """Lists, secrets and tags as people write them; its outputs are what was pushed."""
    names = [f"{registry.host}/action/app:{tag}" for tag in ("1", "2", "3")]
    inputs = {
        "PUSH": "true",
        "TAGS": f"{names[0]},{names[1]}\n{names[2]}\n",
        "BUILD_ARGS": f"BASE={busybox_base}\nVERSION=two words\n\n",
        "LABELS": "a=b\r\nc=d\r\n",
        "SECRETS": "key=s=3\n",
        "SECRET_ENVS": "other=HOME",
        "NO_CACHE": "true",
        "CONTEXT": ".",
        "INSTALL": "none",
    }
    output = project.parent / "output"
    environ = {f"INPUT_{name}": value for name, value in inputs.items()}
    script = [str(DEPLOY / "github/build.sh")]
    run_script(script, project, {**environ, "GITHUB_OUTPUT": str(output)})
    found = dict(line.split("=", 1) for line in output.read_text().splitlines()[:2])
    assert {digest_of(name) for name in names} == {found["digest"]}
    assert found["imageid"].startswith("sha256:")
    assert re.search(r"^metadata<<(.+)\n\{(.|\n)*\}\n\1$", output.read_text(), re.MULTILINE)


@pytest.mark.integration
def test_the_action_keeps_what_is_not_pushed(
    registry: DockerRegistry, busybox_base: str, project: Path
) -> None:
    """Without push and outputs the image is built, and goes nowhere."""
    name = f"{registry.host}/action/kept:1"
    environ = {
        "INPUT_TAGS": name,
        "INPUT_BUILD_ARGS": f"BASE={busybox_base}",
        "INPUT_FILE": "Plain",
    }
    run_script([str(DEPLOY / "github/build.sh")], project, environ)
    status, _, _ = registry.call("GET", "/v2/action/kept/tags/list")
    assert status == 404


@pytest.mark.integration
def test_the_gitlab_job_runs(registry: DockerRegistry, busybox_base: str, project: Path) -> None:
    """Login, build and the report with the digest, with the variables of a job."""
    document = load(DEPLOY / "gitlab/asyncbuild.gitlab-ci.yml")
    environ = {
        "CI_REGISTRY": registry.host,
        "CI_REGISTRY_USER": "gitlab-ci-token",
        "CI_REGISTRY_PASSWORD": "token",
        "CI_REGISTRY_IMAGE": f"{registry.host}/gitlab/app",
        "CI_COMMIT_REF_SLUG": "main",
        "CI_COMMIT_SHA": "abc",
        "CI_PROJECT_DIR": str(project),
    }
    for name, value in document["variables"].items():
        environ[name] = re.sub(r"\$(\w+)", lambda found: environ[found[1]], value)
    environ["ASYNCBUILD_ARGS"] = f"--build-arg BASE={busybox_base}"
    environ["ASYNCBUILD_DOCKERFILE"] = str(project / "Plain")
    job = document[".asyncbuild"]
    lines = [*job["before_script"], *job["script"]]
    run_script(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], project, environ)
    told = (project / "image.env").read_text().strip()
    assert told == f"IMAGE_DIGEST={digest_of(f'{registry.host}/gitlab/app:main')}"
    assert (project / "metadata.json").exists()


@pytest.mark.integration
def test_the_task_runs(registry: DockerRegistry, busybox_base: str, project: Path) -> None:
    """The step's script, with its parameters, writes both results."""
    (step,) = load(DEPLOY / "tekton/task.yaml")["spec"]["steps"]
    script = project.parent / "script"
    script.write_text(step["script"])
    script.chmod(0o755)
    name = f"{registry.host}/tekton-task/app:1"
    results = {key: str(project.parent / key) for key in ("IMAGE_DIGEST", "IMAGE_URL")}
    environ = {"IMAGE": name, "DOCKERFILE": "./Plain", "CONTEXT": ".", **results}
    arguments = ["--build-arg", f"BASE={busybox_base}"]
    run_script([str(script), *arguments], project, environ)
    assert Path(results["IMAGE_DIGEST"]).read_text() == digest_of(name)
    assert Path(results["IMAGE_URL"]).read_text() == name


def test_scripts_are_shell() -> None:
    """Bash finds no mistake in the scripts."""
    for path in (DEPLOY / "github/build.sh",):
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert os.access(path, os.X_OK)
