"""Files of a layer that are told by one header and are here whole, written on the shortest way.

They are nine of ten. Four system calls make one: open, write, utime, close; what a file has from its
making (the owner, most modes) is not set again. All of it is one loop without objects and calls of our own:
each would take a tenth of what a file takes. What has to do with other entries is `LayerTree`'s.
"""

from __future__ import annotations

import os
import sys

from asyncbuild.layers.limits import LayerLimits
from asyncbuild.layers.reader import TarReader
from asyncbuild.layers.records import records
from asyncbuild.layers.tree import CREATE, LayerTree


def write_plain_files(
    reader: TarReader, tree: LayerTree, limits: LayerLimits, entries: int, size: int
) -> tuple[int, int]:
    """Write the files that `TarReader.plain_files` gives. ``entries`` of ``size`` bytes came before; how
    many these are afterwards. Errors are those of `LayerTree` and of the limits.
    """
    if records() or tree.has_links_outside:
        return entries, size
    try:
        counted = _write(reader, tree, limits, entries, size)
    except OSError as error:
        if isinstance(error.filename, bytes):
            error.filename = os.fsdecode(error.filename)
        raise
    tree.count(counted[0] - entries, counted[1] - size)
    return counted


def _write(
    reader: TarReader, tree: LayerTree, limits: LayerLimits, entries: int, size: int
) -> tuple[int, int]:
    most_entries, most_size = limits.entries or sys.maxsize, limits.size or sys.maxsize
    head = owner = None
    directory = mode = uid = gid = 0
    chown = chmod = False
    for above, name, wanted, times, data in reader.plain_files():
        entries += 1
        size += len(data)
        if entries > most_entries or size > most_size:
            limits.check_files(entries, size)
        if above is not head:
            directory, head = tree.directory(above), above
        if wanted is not owner:
            owner = mode, uid, gid = wanted
            chown, chmod = tree.is_others(uid, gid), tree.is_cut(mode)
        try:
            file = os.open(name, CREATE, mode & 0o777, dir_fd=directory)
        except FileExistsError:
            tree.make_room(above, os.fsdecode(name))
            head = None  # a link that was there may have led here
            file = os.open(name, CREATE, mode & 0o777, dir_fd=directory)
        try:
            if data:
                count = os.write(file, data)
                while count < len(data):  # a full disk takes a part, and then says so
                    count += os.write(file, data[count:])
            if chown:
                os.fchown(file, uid, gid)
            if chmod:
                os.fchmod(file, mode)
            os.utime(file, times)
        finally:
            os.close(file)
    return entries, size
