# The same commands as CI's and as the README's; nothing here does more than its line says.

# list the recipes
default:
    @just --list

# Debian packages and .venv
setup:
    scripts/setup

# all checks, as in CI; arguments go to pytest
test *arguments:
    scripts/test {{arguments}}

# lint, format and types only
lint: setup
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy

# rewrite to the house's format
format: setup
    .venv/bin/ruff check --fix-only
    .venv/bin/ruff format

# build and push the examples through a local registry
quickstart *examples:
    scripts/quickstart {{examples}}

# Dockerfiles as people write them, all of them: installs compilers and runtimes, takes minutes
realworld *arguments: setup
    ASYNCBUILD_REALWORLD=all .venv/bin/python -m pytest -q tests/test_realworld.py {{arguments}}

# every case with other builders too, and what differs
differential *arguments:
    scripts/differential {{arguments}}

# every case that needs no mount, in an ordinary pod (runc): minutes
pod-cases *arguments: setup
    ASYNCBUILD_CASES_IN=pod .venv/bin/python -m pytest -q tests/test_cases.py {{arguments}}

# the same in / of a pod that does not even permit chroot: minutes
inplace-cases *arguments: setup
    ASYNCBUILD_CASES_IN=inplace .venv/bin/python -m pytest -q tests/test_cases.py {{arguments}}

# every case as an ordinary user, with subordinate ids and without: minutes
rootless-cases *arguments: setup
    ASYNCBUILD_CASES_IN=rootless .venv/bin/python -m pytest -q tests/test_cases.py {{arguments}}
    ASYNCBUILD_CASES_IN=single .venv/bin/python -m pytest -q tests/test_cases.py {{arguments}}

# every case that has a RUN by an OCI runtime, and its image compared with our own sandbox's: minutes
runtime-cases runtime="runc" *arguments: setup
    ASYNCBUILD_CASES_IN={{runtime}} .venv/bin/python -m pytest -q tests/test_cases.py {{arguments}}

# all examples in an ordinary pod and as an ordinary user: minutes
examples-elsewhere *arguments: setup
    ASYNCBUILD_EXAMPLES=all .venv/bin/python -m pytest -q tests/test_examples_elsewhere.py {{arguments}}

# fuzz a target (dockerfile, tar, json, reference, headers, ignore) for some seconds: just fuzz json 600
fuzz target="dockerfile" seconds="60": setup
    scripts/fuzz {{target}} {{seconds}}

# builds without end on one store, with faults at random (minutes): just soak --builds 500 --at-once 16
soak *arguments: setup
    scripts/soak {{arguments}}

# every operation by every kind of its requests by every fault, against docker-registry (minutes)
real-faults *arguments: setup
    scripts/real-faults {{arguments}}

# the tool's own image, built by itself, and the examples by that image (minutes)
own-image:
    scripts/own-image

# compile requirements/*.txt anew (--upgrade moves packages on)
lock *arguments:
    requirements/lock {{arguments}}

# what CI runs
ci:
    .ci/run

# what each way to execute RUN costs: just backends --rtts 0 --repeats 1
backends *arguments: setup
    perf/backends {{arguments}}

# the far-link bench, asyncbuild against its peers: just perf matrix; perf/run --help
perf *arguments: setup
    perf/run {{arguments}}
