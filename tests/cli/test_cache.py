"""``asyncbuild cache``: what a real registry keeps of a cache, and less of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.registry import DockerRegistry

pytestmark = pytest.mark.integration


def asyncbuild(
    home: Path, registry: DockerRegistry, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    command = [sys.executable, "-m", "asyncbuild", *words, "--insecure", registry.host]
    environ = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "store")}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def tags(registry: DockerRegistry, repository: str) -> set[str]:
    """The tags of a repository, by the registry's own word."""
    _, _, raw = registry.call("GET", f"/v2/{repository}/tags/list")
    return set(json.loads(raw).get("tags") or ())


def fill(home: Path, registry: DockerRegistry, repository: str, scope: str, text: str) -> None:
    """Build an image of two layers with the cache."""
    context = home / scope
    context.mkdir()
    (context / "file").write_text(text)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /shared\nCOPY Dockerfile /own\n")
    cache = f"type=registry,ref={registry.host}/{repository}:{scope},mode=max"
    output = f"type=oci,dest={home}/{scope}.tar"
    done = asyncbuild(home, registry, "build", "--cache-to", cache, "-o", output, str(context))
    assert done.returncode == 0, done.stderr


def test_list_and_prune_by_scope(registry: DockerRegistry, shm_path: Path) -> None:
    """Entries are listed with their scopes; what only one scope lists goes with it, and its index is
    rewritten before.
    """
    place = f"{registry.host}/upkeep/scopes"
    fill(shm_path, registry, "upkeep/scopes", "main", "text\n")
    fill(shm_path, registry, "upkeep/scopes", "other", "other\n")
    listed = json.loads(
        asyncbuild(shm_path, registry, "cache", "ls", place, "--format=json").stdout
    )
    assert {f"k-{entry['key']}" for entry in listed} == tags(registry, "upkeep/scopes") - {
        "main",
        "other",
    }
    assert sorted(entry["scopes"] for entry in listed) == [["main"]] * 2 + [["other"]] * 2
    done = asyncbuild(shm_path, registry, "cache", "prune", place, "--scope", "main")
    assert done.stdout.splitlines()[-1].startswith("2 entries, "), done.stderr
    kept = {f"k-{entry['key']}" for entry in listed if entry["scopes"] == ["other"]}
    assert tags(registry, "upkeep/scopes") == kept | {"main", "other"}
    accept = {"Accept": "application/vnd.oci.image.index.v1+json"}
    _, _, raw = registry.call("GET", "/v2/upkeep/scopes/manifests/main", headers=accept)
    assert json.loads(raw)["manifests"] == []


def test_a_cache_beside_the_image(registry: DockerRegistry, shm_path: Path) -> None:
    """Its place is inferred from the destination, and has a tag for each step and one for the index; the next
    machine executes nothing.
    """
    context = shm_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /a\nCOPY Dockerfile /b\n")
    image = f"{registry.host}/upkeep/app:1"
    words = ["build", "-t", image, "--cache-from", "type=registry", "--progress", "plain"]
    first = asyncbuild(shm_path, registry, *words, "--cache-to", "type=registry", str(context))
    assert first.returncode == 0, first.stderr
    found = tags(registry, "upkeep/app/cache")
    assert sorted(tag[:2] for tag in found) == ["ca", "k-", "k-"]
    again = asyncbuild(shm_path, registry, *words, "--store", f"{shm_path}/new", str(context))
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert "layers: 2 mounted\n" in again.stderr


def test_every_kind_and_a_dry_run(
    registry: DockerRegistry, busybox_base: str, shm_path: Path
) -> None:
    """Steps with their text, the base's listing and a cache mount are shown; a dry run shows what would go
    and asks for nothing to be deleted; prune by kind and by all take them away.
    """
    context = shm_path / "context"
    context.mkdir()
    run = "RUN --mount=type=cache,target=/c echo kept > /c/f"
    (context / "Dockerfile").write_text(f"FROM {busybox_base}\n{run}\nWORKDIR /new\n")
    place = f"{registry.host}/upkeep/kinds"
    caches = ["--cache-repo", f"{place}:main", "--cache-mount-to", f"{place}:main"]
    output = ["-o", f"type=oci,dest={shm_path}/image.tar"]
    done = asyncbuild(shm_path, registry, "build", *caches, *output, str(context))
    assert done.returncode == 0, done.stderr
    shown = asyncbuild(shm_path, registry, "cache", "ls", place).stdout.splitlines()
    ends = sorted((line.split()[0], line.partition(" d  ")[2]) for line in shown[:-1])
    assert ends == [
        ("listing", ""),
        ("mount", "main  /c"),
        ("step", f"main  {run}"),
        ("step", "main  WORKDIR /new"),
    ]
    before, mark = tags(registry, "upkeep/kinds"), registry.mark()
    dry = asyncbuild(shm_path, registry, "cache", "prune", place, "--all", "--dry-run")
    assert dry.stdout.splitlines()[:-1] == shown[:-1]
    assert dry.stdout.endswith(" would be removed\n")
    assert {request.method for request in registry.requests(mark)} == {"GET"}
    kinds = ["--kind", "mount", "--kind", "listing", "--older-than", "0s"]
    asyncbuild(shm_path, registry, "cache", "prune", place, *kinds)
    assert before - tags(registry, "upkeep/kinds") == {
        tag for tag in before if tag.startswith(("main-m-", "f-"))
    }
    asyncbuild(shm_path, registry, "cache", "prune", place, "--all")
    assert tags(registry, "upkeep/kinds") == {"main"}
    again = asyncbuild(shm_path, registry, "build", *caches, *output, str(context))
    assert again.returncode == 0, again.stderr


def test_prune_by_age(registry: DockerRegistry, shm_path: Path) -> None:
    """What is young stays; ``--all`` leaves nothing, and without a choice nothing is done."""
    place = f"{registry.host}/upkeep/age"
    fill(shm_path, registry, "upkeep/age", "main", "text\n")
    assert asyncbuild(shm_path, registry, "cache", "prune", place).returncode == 2
    done = asyncbuild(shm_path, registry, "cache", "prune", place, "--older-than", "1d")
    assert done.stdout == "0 entries, 0 bytes removed\n"
    assert len(tags(registry, "upkeep/age")) == 3
    asyncbuild(shm_path, registry, "cache", "prune", place, "--all")
    assert tags(registry, "upkeep/age") == {"main"}
