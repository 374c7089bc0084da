"""RUN in ``/`` itself: for a container where not even chroot is permitted.

It is started and spoken to as `asyncbuild.rootfs.chroot` is, and does the same with another root: ``/`` is
emptied but for what is reserved, the layers are unpacked there, and two walks over the inodes tell what the
command changed. The command is a plain child: the container's own /proc, /sys, /dev and network files are
what it finds.

This program runs from a copy of itself (`asyncbuild.rootfs.refuge`), which is reserved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from asyncbuild.rootfs import syscalls
from asyncbuild.rootfs.chroot import Builder, execute, serve
from asyncbuild.rootfs.init import Step, Verdict
from asyncbuild.rootfs.mounts import MountOrder
from asyncbuild.rootfs.orders import Orders
from asyncbuild.rootfs.ownroot import (
    HOME,
    OwnRoot,
    Surroundings,
    check_expendable,
    empty,
    fill,
    save,
)
from asyncbuild.rootfs.places import Places, show_mounts, write_file
from asyncbuild.rootfs.plainroot import apply_layer, remove
from asyncbuild.rootfs.reserved import Reserved
from asyncbuild.rootfs.statwalk import Upper, walk
from asyncbuild.rootfs.view import DirectoryTree, View

_ROOT = "/"
_ASIDE = f"{HOME}/aside"
_HOSTS = "/etc/hosts"


def main() -> None:
    """The helper; never returns."""
    serve(_run)


def _run(orders: Orders, control: int) -> Verdict:
    builder = Builder(control)
    own = OwnRoot(
        tuple(map(os.fsdecode, orders.reserved)),
        tuple(map(os.fsdecode, orders.standing)),
        orders.forced,
        orders.cleanup,
    )
    check_expendable(Surroundings.look(), forced=own.forced)
    syscalls.hide_from_ptrace()
    lowers = [os.fsdecode(path) for path in orders.lower_directories]
    view = View([DirectoryTree(path) for path in lowers])
    reserved = own.names.and_where_it_differs(view)
    _make_root(orders, own, (view, reserved), builder)
    with Step("looking at /"):
        before = walk(_ROOT, builder.check, reserved)
    with Step("making room"):
        remove(_ASIDE)
        os.mkdir(_ASIDE, 0o700)
    places = Places("", _ASIDE)
    try:
        for path, mode, data in orders.files:
            name = os.fsdecode(path).strip("/")
            places.cover(name, lambda host, data=data, mode=mode: write_file(host, data, mode))  # type: ignore[misc]
        show_mounts(places, [MountOrder(fields) for fields in orders.mounts])
        with _more_hosts(orders.hosts):
            code = execute(orders, builder, control, [])
    finally:
        places.take_away()
    if code == 0:
        with Step("looking for what changed"):
            after = walk(_ROOT, builder.check, reserved)
            Upper(_ROOT, os.fsdecode(orders.upper), lowers, keep=True).write(before, after)
    return ("ended", code)


def _make_root(
    orders: Orders, own: OwnRoot, shown: tuple[View, Reserved], builder: Builder
) -> None:
    view, reserved = shown
    if orders.fresh and own.cleanup:
        with Step("copying the container's own files aside"):
            save(own)
    with Step("unpacking the image to /"):
        if orders.fresh:
            empty(reserved, _ROOT, builder.check, forced=own.forced)
            fill(view, reserved)
        for layer in orders.increments:
            builder.check()
            apply_layer(os.fsdecode(layer), _ROOT, reserved)


@contextmanager
def _more_hosts(lines: bytes) -> Iterator[None]:
    """The container's /etc/hosts with more lines; it may be a mount: it is written to, not replaced."""
    if not lines:
        yield
        return
    with open(_HOSTS, "a+b") as file:
        file.seek(0)
        was = file.read()
        file.write(lines)
        file.flush()
        try:
            yield
        finally:
            file.truncate(len(was))
