"""On what file system is a path? SQLite's WAL needs memory that two machines don't share; and some know no modes."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["file_system", "has_modes", "is_network"]

_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "virtiofs",
    "fuse.ceph", "fuse.davfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs",
}  # fmt: skip
# Where every file shows the same mode, mostly 0777, and to change it does nothing. So does much of FUSE.
_WITHOUT_MODES = {"9p", "cifs", "drvfs", "exfat", "fakeowner", "fuseblk", "msdos", "ntfs", "ntfs3", "smb3", "smbfs",
                  "vboxsf", "vfat", "virtiofs"}  # fmt: skip
_TABLE = Path("/proc/self/mountinfo")


def is_network(path: Path, table: Path = _TABLE) -> bool:
    """Tell whether `path`, or the nearest folder above it that is mounted, is served by another machine.

    Read from Linux's table of mounts (proc(5), mountinfo); where there is none, the answer is no.
    """
    return file_system(path, table) in _NETWORK


def has_modes(path: Path, table: Path = _TABLE) -> bool:
    """Tell whether the mode of a file says who may write it, as far as the type of its file system tells."""
    kind = file_system(path, table) or ""
    return kind not in _WITHOUT_MODES and not kind.startswith("fuse.")


def file_system(path: Path, table: Path = _TABLE) -> str | None:
    """Give the type of the file system that `path` is on, as the table of mounts calls it; None if it doesn't tell."""
    try:
        lines = table.read_text(errors="surrogateescape").split("\n")
    except OSError:
        return None
    wanted = os.path.realpath(path)
    best, kind = "", None
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5 or not types:  # noqa: PLR2004 - the mount point is the fifth field
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, types[0]
    return kind
