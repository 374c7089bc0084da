"""What a sandbox's process is told, and how it travels: marshalled (both ends are one interpreter) behind a
length of four bytes. All paths are bytes.

Like `asyncbuild.rootfs.init`, which gets them, this must start fast.
"""

from __future__ import annotations

import marshal
import os


class Orders:
    """What to run and where, as it travels to the helper; `asyncbuild.rootfs.runspec.RunSpec` is the
    face of this. ``files`` are (path in /dev, mode, bytes), ``mounts`` the fields of each `MountOrder`,
    ``limits`` (resource, soft, hard) of setrlimit, ``filter`` a program for seccomp (empty: none),
    ``runtime`` how an OCI runtime is called (empty: the command is run here, see
    `asyncbuild.rootfs.oci_run`), ``fuse`` the path of fuse-overlayfs (empty: the kernel shows layers).
    ``tree`` and what follows are for `asyncbuild.rootfs.chroot`, ``reserved`` and what follows are what
    `asyncbuild.rootfs.inplace` knows of its root.
    """

    argv: list[bytes]
    environment: dict[bytes, bytes]
    working_directory: bytes
    uid: int
    gid: int
    groups: list[int]
    lower_directories: list[bytes]
    upper: bytes
    work: bytes
    hostname: bytes
    hosts: bytes
    resolv_conf: bytes
    network: bool
    files: list[tuple[bytes, int, bytes]]
    mounts: list[dict[str, object]]
    privileged: bool
    user_marks: bool
    filter: bytes
    shm_size: int
    limits: list[tuple[int, int, int]]
    no_new_privileges: bool = False
    runtime: list[bytes] = []  # noqa: RUF012 - a default, never changed
    fuse: bytes = b""
    tree: bytes = b""
    increments: list[bytes] = []  # noqa: RUF012
    fresh: bool = False
    keep: bool = False
    reserved: list[bytes] = []  # noqa: RUF012
    standing: list[bytes] = []  # noqa: RUF012
    forced: bool = False
    cleanup: bool = False

    def encode(self) -> bytes:
        """The message that carries these orders."""
        return framed(marshal.dumps(self.__dict__))

    @classmethod
    def receive(cls, control: int) -> Orders | None:
        """Wait for orders; None if the builder ends without any."""
        header = _read_exactly(control, 4)
        body = _read_exactly(control, int.from_bytes(header, "big")) if header else b""
        if not body:
            return None
        orders = cls()
        orders.__dict__.update(marshal.loads(body))  # noqa: S302 - from our own parent
        return orders


def framed(body: bytes) -> bytes:
    """A marshalled message as it goes over the socket."""
    return len(body).to_bytes(4, "big") + body


def _read_exactly(handle: int, size: int) -> bytes:
    """``size`` bytes, or none if the other end closes before."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(handle, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return bytes(data)
