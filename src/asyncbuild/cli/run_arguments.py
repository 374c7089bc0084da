"""The options of ``asyncbuild build`` that speak of RUN; `run_options` reads them, when there is time."""

from __future__ import annotations

import argparse


def add_run_options(group: argparse._ArgumentGroup) -> None:
    """The options of ``asyncbuild build`` that speak of RUN."""
    add = group.add_argument
    some = {"action": "append", "default": [], "metavar": "SPEC"}
    add("--secret", help="id=ID[,src=FILE|,env=NAME]", **some)  # type: ignore[arg-type]
    add("--ssh", help="default|ID[=SOCKET|=KEY,…]", **some)  # type: ignore[arg-type]
    add("--allow", help="security.insecure, device, device=NAME", **some)  # type: ignore[arg-type]
    add("--device", help=argparse.SUPPRESS, **some)  # type: ignore[arg-type]
    add("--cdi-spec-dir", help=argparse.SUPPRESS, **some)  # type: ignore[arg-type]
    add("--shm-size", metavar="SIZE", help=argparse.SUPPRESS)
    add("--ulimit", help=argparse.SUPPRESS, **some)  # type: ignore[arg-type]
    add("-m", "--memory", metavar="SIZE", help=argparse.SUPPRESS)
    add("--cpus", metavar="N", help=argparse.SUPPRESS)
    add("--security-opt", help=argparse.SUPPRESS, **some)  # type: ignore[arg-type]
    add("--isolation", metavar="WAY", help=argparse.SUPPRESS)
    add("--oci-runtime", metavar="PROGRAM", help=argparse.SUPPRESS)
    add("--force", action="store_true", help=argparse.SUPPRESS)
    add("--cleanup", action="store_true", help=argparse.SUPPRESS)
