"""Atheris: coverage-guided bytes for the Dockerfile's reader, the plan, the checks and pin.

``just fuzz dockerfile 600`` runs it for ten minutes. An exception other than a DockerfileError with its
place, or an input that takes more than ten seconds, stops the run and is written beside the corpus.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["asyncbuild", "support"]):
    from support.fuzz import read


def one_input(data: bytes) -> None:
    """What the fuzzer calls for each input."""
    read(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
