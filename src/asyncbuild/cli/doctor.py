"""``asyncbuild doctor``: what this place permits, how a build would execute RUN, what would help."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from asyncbuild.build.backends import MAKERS, WITH_MOUNTS, is_inside
from asyncbuild.cli.places import store_directory
from asyncbuild.errors import IsolationError
from asyncbuild.rootfs.cgroups import CannotLimit, Group, Limits
from asyncbuild.rootfs.isolation import (
    Ability,
    Isolation,
    Place,
    choose,
    probe,
)
from asyncbuild.rootfs.oci_runtimes import Runtime, known_runtimes
from asyncbuild.store.store import Store

_WAYS = tuple(item for item in Isolation if item not in (Isolation.AUTO, Isolation.NONE))
_ASKED_FOR = Isolation.INPLACE
_SECCOMP = {0: "none", 1: "strict", 2: "filtered"}
_A_LIMIT = Limits(memory=1 << 30)


def doctor(options: argparse.Namespace) -> int:
    """Try, and print it; 0 if RUN can be executed, else 77."""
    with Store.open(store_directory(options.store, os.environ)) as store:
        work = store.new_work("probe", "try")
        try:
            place = probe(work / "try")
        finally:
            store.discard(work)
    found = findings(place, _limits(), known_runtimes(os.environ))
    if options.format == "json":
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _text(found))
    return 0 if found["auto"] != Isolation.NONE else IsolationError.exit_code


def findings(
    place: Place, limits: str | None, runtimes: Mapping[str, Runtime | str | None]
) -> dict[str, Any]:
    """Everything that was found, as JSON has it. ``limits`` is why no control group can be made;
    ``runtimes`` are as `known_runtimes` has them.
    """
    known = tuple(way for way in (*MAKERS, Isolation.NONE) if _may_go(place, way))
    auto = choose(place, Isolation.AUTO, known)
    return {
        "auto": str(auto),
        "uid": place.uid,
        "capabilities": f"{place.capabilities:016x}",
        "sys_admin": place.has_sys_admin,
        "seccomp": _SECCOMP.get(place.seccomp, str(place.seccomp)),
        "no_new_privileges": place.no_new_privileges,
        "container": place.container,
        "sysctls": dict(place.sysctls),
        "subordinate_ids": {
            "users": sum(item.count for item in place.subordinates.users),
            "groups": sum(item.count for item in place.subordinates.groups),
            "newuidmap": place.subordinates.newuidmap,
            "newgidmap": place.subordinates.newgidmap,
        },
        "abilities": {str(item): place.refused.get(item) for item in Ability},
        "limits": limits,
        "oci_runtimes": {name: _runtime(found) for name, found in runtimes.items()},
        "backends": {str(way): _backend(place, way) for way in _WAYS},
    }


def _may_go(place: Place, way: Isolation) -> bool:
    """Whether a build that this user starts knows the way: root does not become another user's root."""
    return way is not Isolation.ROOTLESS or place.uid != 0 or is_inside(place)


def _backend(place: Place, way: Isolation) -> dict[str, Any]:
    unfit = _unfit(place, way)
    missing = {} if unfit else place.missing(way)
    wishes = {} if unfit or missing else place.wishes(way)
    return {
        "possible": not unfit and not missing,
        "known": way in MAKERS,
        "missing": unfit | {str(need): text for need, text in missing.items()},
        "without": {str(wish): text for wish, text in wishes.items()},
        "better": list(place.better((*missing, *wishes))),
    }


def _unfit(place: Place, way: Isolation) -> dict[str, str]:
    """What no ability would change: who this is, and where."""
    if not _may_go(place, way):
        return {"user": "it is for ordinary users, and this is root"}
    if way is Isolation.OVERLAY and is_inside(place):
        return {"user": "this is root of a user namespace, which has rootless for it"}
    if way is not Isolation.INPLACE:
        return {}
    user = {"user": "it needs root, and this is not"} if place.uid != 0 else {}
    return user | ({"container": place.objection} if place.objection else {})


def _runtime(found: Runtime | str | None) -> dict[str, str] | None:
    if found is None:
        return None
    if isinstance(found, str):
        return {"problem": found}
    return {"path": found.path, "version": found.version}


def _limits() -> str | None:
    try:
        Group.make(_A_LIMIT).close()
    except CannotLimit as error:
        return error.message
    return None


def _text(found: dict[str, Any]) -> Iterator[str]:
    yield f"RUN is executed with: {found['auto']}"
    if found["auto"] == Isolation.NONE:
        if found["backends"][_ASKED_FOR]["possible"]:
            yield f"--isolation {_ASKED_FOR} can execute it, in a container that is thrown away afterwards"
        yield "COPY, ADD and metadata need none of what is missing"
    yield ""
    for name, backend in found["backends"].items():
        yield from _way_text(name, backend)
    yield ""
    admin = "with" if found["sys_admin"] else "without"
    yield f"user {found['uid']}, {admin} CAP_SYS_ADMIN (capabilities {found['capabilities']})"
    yield f"seccomp: {found['seccomp']}; no new privileges: {_yes(found['no_new_privileges'])}"
    for name, value in found["sysctls"].items():
        yield f"{name} = {value}"
    ids = found["subordinate_ids"]
    programs = (
        "newuidmap and newgidmap" if ids["newuidmap"] and ids["newgidmap"] else "no newuidmap"
    )
    yield f"subordinate ids: {ids['users']} users, {ids['groups']} groups; {programs}"
    yield f"--memory and --cpus: {found['limits'] or 'possible'}"
    yield f"--oci-runtime: {_runtimes_text(found)}"
    for name, refused in found["abilities"].items():
        yield f"  {name:<18} {'yes' if refused is None else 'no: ' + refused}"


def _way_text(name: str, backend: Mapping[str, Any]) -> Iterator[str]:
    """One way: possible, with what it goes without; or what stands in its way. Then what would help."""
    if backend["possible"]:
        said = "; ".join(backend["without"].values())
        asked = ", if asked for: it replaces everything in /" if name == _ASKED_FOR else ""
        yield f"  {name:<9} possible{asked}{said and ', but: '}{said}"
        verb = "it would be better with"
    else:
        refusals = [f"{need}: {text}" for need, text in backend["missing"].items()]
        yield f"  {name:<9} not possible: {'; '.join(refusals) or 'not in this version'}"
        verb = "it needs"
    for text in backend["better"]:
        yield f"            {verb} {text}"


def _runtimes_text(found: dict[str, Any]) -> str:
    """What there is, and whether it is of use."""
    there = [
        item.get("problem") or f"{name} {item['version']} ({item['path']})"
        for name, item in found["oci_runtimes"].items()
        if item is not None
    ]
    if not there:
        return "neither runc nor crun is installed"
    useful = any(found["backends"][str(way)]["possible"] for way in WITH_MOUNTS)
    return "; ".join(there) + ("" if useful else "; but not possible here: a runtime needs mounts")


def _yes(value: object) -> str:
    return "yes" if value else "no"
