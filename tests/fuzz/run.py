"""Atheris: coverage-guided bytes for a target of `support.fuzz_targets`.

``just fuzz json 600`` runs it for ten minutes. An exception that the target does not expect, or an input
that takes more than ten seconds, stops the run and is written beside the corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["asyncbuild", "support"]):
    from support.fuzz_targets import TARGETS, seeds

if __name__ == "__main__":
    target, corpus, *options = sys.argv[1:]
    for number, seed in enumerate(seeds(target)):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *options], TARGETS[target])
    atheris.Fuzz()
