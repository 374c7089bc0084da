"""kaniko's command line: public CI files' lines parsed, many of them run against a real registry."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import pytest
import trio

from asyncbuild.cli import kaniko_options as wanted
from asyncbuild.cli.kaniko import kaniko
from asyncbuild.cli.kaniko_build import build_request
from asyncbuild.cli.kaniko_context import Archive, Directory, context_place
from asyncbuild.cli.kaniko_flags import EXECUTOR, WARMER, Given, read_flags
from asyncbuild.cli.kaniko_registries import registry_settings
from asyncbuild.cli.kaniko_source import KanikoSource
from asyncbuild.cli.kaniko_warmer import images_of
from asyncbuild.dockerfile.remote import GitReference, WebFile
from asyncbuild.errors import UsageError
from asyncbuild.registry.hosts import HostSettings
from asyncbuild.registry.registries import RegistrySettings
from support import bases
from support.pulled import inspect_config, pull, unpack
from support.registry import DockerRegistry
from support.sources import Commit, Page, WebServer, make_repository

HERE = Path(__file__).parent
LINES: list[dict[str, Any]] = tomllib.loads((HERE / "kaniko_lines.toml").read_text())["line"]
TOLD = {"app.txt": "an app\n", "web/index.html": "<p>hello\n", "npmrc": "k=v\n"}
DOCKERFILE = """\
ARG BASE=busybox
FROM ${BASE} AS app
RUN mkdir -p /srv/cache /var/cache && echo built > /srv/built && echo kept > /srv/cache/file
COPY app.txt /srv/
FROM ${BASE} AS test
RUN echo tested
FROM ${BASE} AS secrets
RUN --mount=type=secret,id=npm grep -q k=v /run/secrets/npm
RUN --mount=type=secret,id=token,env=TOKEN,required test "$TOKEN" = x
FROM ${BASE} AS other
COPY app.txt /
"""


@pytest.fixture(scope="module")
def context(session_path: Path) -> Path:
    """The small project that the lines build; the last stage is not what most of them want."""
    root = session_path / "kaniko-context"
    for name, text in TOLD.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "Dockerfile").write_text(DOCKERFILE)
    (root / "web/Dockerfile.web").write_text("ARG BASE\nFROM $BASE\nCOPY index.html /\n")
    return root


class Filled:
    """One line with its variables filled in."""

    def __init__(self, line: dict[str, Any], variables: Mapping[str, str]) -> None:
        self.line = line
        self._variables = {**variables}
        self.environ = {key: self.text(value) for key, value in line.get("env", {}).items()}
        self._variables |= self.environ
        self.program, *self.words = shlex.split(self.text(line["command"]))

    def text(self, template: str) -> str:
        """``template`` with what this line knows."""
        return Template(template).safe_substitute(self._variables)

    def expected(self) -> dict[str, Any]:
        """The facts that the line must give."""
        return {key: self._fill(value) for key, value in self.line.get("expect", {}).items()}

    def _fill(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.text(item) for item in value]
        return self.text(value) if isinstance(value, str) else value


NAMED = {
    "registry": "reg.test:5000",
    "base": "reg.test:5000/base/busybox:latest",
    "multi": "reg.test:5000/base/multi:latest",
    "private": "registry.gitlab.example",
    "user": "gitlab-ci-token",
    "password": "t0ken",
    "tls": "registry.corp",
    "tls_base": "registry.corp/base/busybox:latest",
    "ca": "/certs/ca.crt",
    "certificate": "/certs/us.crt",
    "key": "/certs/us.key",
    "git": "github.com/acme",
    "commit": "1d9d5ad3b5a8f1a39b1a2c8b4d3e2f1a0b9c8d7e",
    "s3": "http://minio:9000",
}
"""What the lines name, where nothing is asked for it."""


@pytest.mark.parametrize("line", LINES, ids=[line["name"] for line in LINES])
def test_lines_mean_what_they_say(line: dict[str, Any], context: Path) -> None:
    """Each line is read, without the network, as the request that it means."""
    filled = Filled(line, NAMED | {"context": str(context), "out": "/results"})
    facts: dict[str, Any]
    if filled.program == "warmer":
        given = read_flags(WARMER, filled.words)
        images = images_of(given, filled.environ)
        facts = {"images": [f"{name} {form}" for name, form in images]}
    else:
        given = read_flags(EXECUTOR, filled.words)
        assert given.words == ()
        facts = facts_of(given, filled.environ)
    expected = filled.expected()
    assert {key: facts[key] for key in expected} == expected
    assert list(given.without_meaning) == line.get("warns", [])


def facts_of(given: Given, environ: Mapping[str, str]) -> dict[str, Any]:
    """What a line of executor asks for, as texts."""
    wanted.check(given, environ)
    request = build_request(given, KanikoSource(Path("/ctx"), b"", Path("Dockerfile")), environ)
    settings = registry_settings(given, request.destinations, environ)
    types = {None: "as the base", True: "docker", False: "oci"}
    level = request.compression.level
    return {
        "context": place_text(given, environ),
        "destinations": [str(item) for item in request.destinations],
        "names": [str(item) for item in request.names],
        "outputs": [f"{item.kind.value} {item.destination}" for item in request.outputs],
        "docker_types": types[request.docker_media_types],
        "compression": f"{request.compression.codec.value}{'' if level is None else f' {level}'}",
        "cache": request.use_cache,
        "cache_from": [place_of_cache(item) for item in request.cache_from],
        "cache_to": [place_of_cache(item) for item in request.cache_to],
        "cache_ttl": request.cache_ttl,
        "store": str(request.store),
        "cache_dir": str(request.cache_dir),
        "platform": str(request.platform),
        "created": request.created,
        "squash": request.squash,
        "ignored": list(request.ignored_paths),
        "keep_immutable": request.keep_immutable_tags,
        "targets": list(given.texts("target")),
        "labels": sorted(f"{key}={value}" for key, value in request.labels.items()),
        "annotations": sorted(f"{key}={value}" for key, value in request.annotations.items()),
        "build_args": sorted(f"{key}={value}" for key, value in request.build_args.items()),
        "secrets": [
            f"{item.name} {'env' if item.is_variable else 'file'} {item.source}"
            for item in wanted.secrets(given, environ)
        ],
        "progress": wanted.progress(given).value,
        "attempts": settings.policy.attempts,
        "hosts": hosts_text(settings),
        "mirrors": mirrors_text(settings),
        "logins": [login_text(settings, item.registry) for item in request.destinations],
    }


def place_text(given: Given, environ: Mapping[str, str]) -> str:
    """The context in one line."""
    match context_place(given, environ):
        case Directory(path):
            return f"directory {path}"
        case Archive(path):
            return f"archive {path or '-'}"
        case GitReference() as git:
            modules = " submodules" if git.submodules else ""
            return f"git {git.remote} {git.ref}{modules}"
        case WebFile(url):
            return f"url {url}"
        case bucket:
            return f"bucket {bucket}"


def place_of_cache(place: Any) -> str:
    """A cache's directory, or its repository."""
    return str(place.path) if place.path is not None else place.reference.name


def hosts_text(settings: RegistrySettings) -> list[str]:
    """Every host that is not as all are, sorted."""
    rows = [*sorted(settings.hosts.items()), ("*", settings.others)]
    found = []
    for name, host in rows:
        if host == HostSettings():
            continue
        words = [f"ca={file}" for file in host.ca_files]
        if host.client_certificate:
            words.append(f"client={','.join(host.client_certificate)}")
        if host.insecure:
            words.append("no-verify" if host.plain is False else "insecure")
        found.append(" ".join([name, *words]))
    return found


def mirrors_text(settings: RegistrySettings) -> list[str]:
    """Every registry's mirrors in their order."""
    rows = [
        f"{registry} -> {'/'.join(filter(None, (mirror.registry, mirror.prefix)))}"
        for registry, mirrors in sorted(settings.mirrors.places.items())
        for mirror in mirrors
    ]
    return rows if settings.mirrors.fallback else [*rows, "no fallback"]


def login_text(settings: RegistrySettings, registry: str) -> str:
    """Who logs in at a registry."""
    found = trio.run(settings.keychain.credential, registry)
    return f"{registry} {found.username or '-'}"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {"RUN", "WORKDIR", "COPY", "ADD"}),
        ("--cache-copy-layers", {"RUN", "WORKDIR", "COPY", "ADD"}),
        ("--cache-copy-layers=false", {"RUN", "WORKDIR"}),
        ("--cache-run-layers=false --cache-copy-layers", {"COPY", "ADD"}),
        ("--cache-run-layers=false", None),
        ("--cache-run-layers=false --cache-copy-layers=false", None),
    ],
)
def test_what_is_cached(flags: str, expected: set[str] | None) -> None:
    """Which instructions' results are kept; None: the cache is off."""
    given = read_flags(EXECUTOR, ["--cache", "-d", "reg.test/app:1", *flags.split()])
    request = build_request(given, KanikoSource(Path("/ctx"), b"", Path("Dockerfile")), {})
    assert request.use_cache == (expected is not None)
    assert expected is None or request.cached_instructions == expected


def test_every_flag_is_in_some_line() -> None:
    """The lines together use each flag of executor and of warmer."""
    for program, table in (("executor", EXECUTOR), ("warmer", WARMER)):
        used = set()
        for line in LINES:
            words = shlex.split(line["command"])
            if words[0] == program:
                used |= {flag.name for flag, _ in read_flags(table, words[1:]).values}
        assert {flag.name for flag in table} - used == set(), program


RUNS = [line for line in LINES if line.get("run")]
ANSWER = {"Last-Modified": "Tue, 14 Nov 2023 22:13:20 GMT", "ETag": '"x"'}
"""What a bucket's server says of an object."""


@pytest.fixture(scope="module")
def places(
    *,
    registry: DockerRegistry,
    auth_registry: DockerRegistry,
    tls_registry: DockerRegistry,
    small_bases: Mapping[str, str],
    web: WebServer,
    context: Path,
) -> dict[str, str]:
    """What the lines name: registries of three kinds, repositories and a bucket on this machine."""
    bases.busybox_image().push(tls_registry, "base/busybox")
    tls = tls_registry.tls
    assert tls is not None
    packed = subprocess.run(["tar", "-C", context, "-cz", "."], check=True, capture_output=True)
    web.pages["/builds/ctx/app.tar.gz"] = Page(packed.stdout, headers=ANSWER)
    return {
        "registry": registry.host,
        "base": small_bases["busybox"],
        "multi": small_bases["multi"],
        "private": auth_registry.host,
        "user": auth_registry.username,
        "password": auth_registry.password,
        "tls": tls_registry.host,
        "tls_base": f"{tls_registry.host}/base/busybox:latest",
        "ca": str(tls.ca_file),
        "certificate": str(tls.certificate),
        "key": str(tls.key),
        "git": f"{web.host}/git/kaniko",
        "commit": make_repositories(web),
        "s3": web.base,
        "context": str(context),
    }


def make_repositories(web: WebServer) -> str:
    """A shop with a submodule, and an app with a branch; the shop's first commit."""
    copies = "FROM scratch\nCOPY . /\n"
    root = web.root / "kaniko"
    make_repository(root / "parts.git", [Commit({"part": "1"})])
    inner = {"web/parts": f"{web.base}/git/kaniko/parts.git"}
    shop = [
        Commit({"web/Dockerfile": f"{copies}COPY parts/part /part\n"}, submodules=inner),
        Commit({"web/Dockerfile": "this is a later commit\n"}),
    ]
    first, _ = make_repository(root / "shop.git", shop)
    app = [Commit({"Dockerfile": "not this branch\n"})]
    make_repository(root / "app.git", [*app, Commit({"Dockerfile": copies}, branch="release")])
    return first


@pytest.fixture
def variables(places: dict[str, str], many_layer_base: str, shm_path: Path) -> dict[str, str]:
    """What a line may name when it is run."""
    out = shm_path / "out"
    out.mkdir()
    return places | {"out": str(out)}


def test_thirty_lines_are_run() -> None:
    """Those which are not name a cloud, a machine's files, or a host with a public certificate."""
    assert len(RUNS) >= 30
    rest = {line["name"] for line in LINES if not line.get("run")}
    assert rest == {
        "kubernetes: digest as the pod's termination message",
        "cloud build: a bucket by its old flag",
        "google: a bucket with a prefix",
        "azure: a blob with a key",
        "a tar on a web server",
    }


@pytest.mark.integration
@pytest.mark.parametrize("line", RUNS, ids=[line["name"] for line in RUNS])
def test_lines_run(
    line: dict[str, Any],
    variables: dict[str, str],
    auth_docker_config: Path,
    monkeypatch: pytest.MonkeyPatch,
    shm_path: Path,
) -> None:
    """Each of these lines builds, and what it pushed and wrote is there."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth_docker_config / "config.json"))  # skopeo's
    filled = Filled(line, variables)
    done = run(filled, shm_path)
    assert done.returncode == 0, done.stderr
    assert filled.text(line.get("stdout", "")) in done.stdout
    digest = done.stdout.strip().rpartition("\n")[2].rpartition(" ")[2]
    if filled.program == "executor" and "--dryrun" not in filled.words:
        for reference in facts_of(read_flags(EXECUTOR, filled.words), filled.environ)[
            "destinations"
        ]:
            check_pushed(reference, digest, line.get("architecture", "amd64"))
    written = {**filled.environ, **variables, "digest": digest}
    for name, text in line.get("writes", {}).items():
        found = (Path(variables["out"]) / name).read_bytes()
        assert not text or found.decode() == Template(text).safe_substitute(written)


def run(filled: Filled, directory: Path) -> subprocess.CompletedProcess[str]:
    """The program by the name that the line calls it; its cache is the test's."""
    program = directory / filled.program
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom asyncbuild.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(directory), **filled.environ}
    piped = b""
    if filled.line.get("stdin") == "tar.gz":
        tar = ["tar", "-C", filled.text("${context}"), "-cz", "."]
        piped = subprocess.run(tar, check=True, capture_output=True).stdout
    done = subprocess.run(
        [str(program), *filled.words], env=environ, input=piped, capture_output=True, check=False
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def check_pushed(reference: str, digest: str, architecture: str = "amd64") -> None:
    """An independent tool finds the image, by that digest."""
    found = subprocess.run(
        [
            "skopeo",
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            f"docker://{reference}",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == digest
    assert inspect_config(reference)["architecture"] == architecture


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["tar-path", "oci-layout-path"])
def test_an_image_that_was_built_before_is_pushed(
    variables: dict[str, str], shm_path: Path, kind: str
) -> None:
    """``executor push``: what a build without a push wrote goes to every destination."""
    build = f"executor -c ${{context}} --no-push --{kind}=${{out}}/image -d ${{registry}}/app:1"
    built = run(Filled({"command": f"{build} --build-arg=BASE=${{base}}"}, variables), shm_path)
    assert built.returncode == 0, built.stderr
    names = [f"{variables['registry']}/pushed/{kind}:{tag}" for tag in ("1", "latest")]
    command = f"executor push --push-retry=2 ${{out}}/image -d {names[0]} -d {names[1]}"
    done = run(Filled({"command": f"{command} --skip-push-permission-check"}, variables), shm_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == built.stdout
    assert "without meaning here: --skip-push-permission-check" in done.stderr
    for name in names:
        check_pushed(name, built.stdout.strip())


@pytest.mark.integration
def test_one_layer_without_what_is_ignored(variables: dict[str, str], shm_path: Path) -> None:
    """All steps are one layer upon the base's, the same from two stores; ignored paths are not in it."""
    command = (
        "executor -c ${context} -d ${registry}/squash/app:1 --target app --build-arg BASE=${base}"
    )
    command += " --single-snapshot --reproducible --ignore-path=/srv/cache"
    digests = []
    for name in ("first", "second"):
        home = shm_path / name
        home.mkdir()
        done = run(Filled({"command": command}, variables), home)
        assert done.returncode == 0, done.stderr
        digests.append(done.stdout)
    assert digests[0] == digests[1]
    pulled = pull(f"{variables['registry']}/squash/app:1", shm_path / "first")
    base = pull(variables["base"], shm_path / "second")
    assert len(pulled.manifest["layers"]) == len(base.manifest["layers"]) + 1
    names = {item.name for item in pulled.layer(len(pulled.manifest["layers"]) - 1)}
    assert {"srv/app.txt", "srv/built"} <= names
    assert not {name for name in names if name.startswith("srv/cache")}
    assert pulled.configuration["created"] == "1970-01-01T00:00:00Z"
    lines = [line.get("empty_layer", False) for line in pulled.configuration["history"]]
    assert lines[-2:] == [True, False]


@pytest.mark.integration
def test_the_base_decides_the_media_types(
    variables: dict[str, str], docker_base: str, shm_path: Path
) -> None:
    """Without --image-format the image has docker's types if its base has them."""
    command = (
        "executor -c ${context} -d ${registry}/types/app:1 --target app --build-arg BASE=${base}"
    )
    for base, family in ((docker_base, "docker.distribution"), (variables["base"], "oci.image")):
        done = run(Filled({"command": command}, {**variables, "base": base}), shm_path)
        assert done.returncode == 0, done.stderr
        raw = raw_manifest(f"{variables['registry']}/types/app:1")
        assert family in raw["mediaType"]


def raw_manifest(reference: str) -> dict[str, Any]:
    """The manifest as the registry has it."""
    command = ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{reference}"]
    found = subprocess.run(command, check=True, capture_output=True)
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def test_wrong_lines_are_refused() -> None:
    """What kaniko refuses is refused, with exit code 2 and a reason."""
    for words, reason in (
        ([], "you must provide --destination"),
        (["-d", "a@sha256:" + "0" * 64], "a tag is pushed to"),
        (["-d", "a", "--compression=zstd", "--image-format=docker"], "docker has no media type"),
        (["--no-push", "--tar-path=a", "--image-format=oci"], "writes a docker archive"),
        (["--no-push", "--tar-path=a", "--compression=zstd"], "docker has no media type"),
        (["--no-push", "--image-name-with-digest-file=a"], "needs a --destination"),
        (["--no-push", "--cache"], "--cache-repo"),
        (["-d", "a", "true"], "unknown word 'true'"),
        (["-d", "a", "--context=ftp://x"], "it begins with gs://"),
        (["-d", "a", "--verbosity=loud"], "--verbosity=loud"),
        (["push", "x"], "at least one --destination"),
        (["push", "-d", "a"], "name one file or directory"),
    ):
        with pytest.raises(UsageError, match=reason.replace("(", r"\(")):
            kaniko(words, {})


@pytest.mark.integration
def test_what_is_left_in_a_volume_is_lost(variables: dict[str, str], shm_path: Path) -> None:
    """As in kaniko: later steps see it, and no layer has it."""
    dockerfile = shm_path / "with-a-volume"
    dockerfile.write_text(
        "ARG BASE\nFROM ${BASE}\nRUN mkdir /v && echo 1 > /v/before\nVOLUME /v\n"
        "RUN echo 2 > /v/behind\nRUN test -e /v/behind && echo 3 > /seen\n"
    )
    reference = f"{variables['registry']}/volumes/app:1"
    command = f"executor -c ${{context}} --dockerfile={dockerfile} -d {reference}"
    done = run(Filled({"command": f"{command} --build-arg BASE=${{base}}"}, variables), shm_path)
    assert done.returncode == 0, done.stderr
    root = unpack(pull(reference, shm_path), shm_path)
    assert sorted(path.name for path in (root / "v").iterdir()) == ["before"]
    assert (root / "seen").read_text() == "3\n"
