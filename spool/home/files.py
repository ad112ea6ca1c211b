"""Small private files: created 0600 in 0700 folders under any umask, never through a link."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from spool.errors import UnsafePathError
from spool.home.descriptors import streams_kept_free

__all__ = [
    "Signature",
    "open_own",
    "private_folder",
    "publish",
    "read_bounded",
    "refuse_links",
    "signature",
    "sync_folder",
    "write_atomic",
    "write_new",
]

Signature = tuple[int, int, int]

# No file of ours is larger: they hold state, or one event of at most 1 MB.
_MAX_FILE_BYTES = 2_000_000
_FOLDER_MODE = 0o700
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def _euid() -> int | None:
    return os.geteuid() if hasattr(os, "geteuid") else None


def private_folder(path: Path) -> bool:
    """Make sure that `path` is a real folder of ours that nobody else can enter. True if it was made now.

    Parents are created as needed. Raises UnsafePathError for a link, another kind of file or a foreign
    owner; OSError where the machine refuses.
    """
    made = True
    try:
        os.mkdir(path, _FOLDER_MODE)
    except FileExistsError:
        made = False
    except FileNotFoundError:
        os.makedirs(path.parent, _FOLDER_MODE, exist_ok=True)
        with suppress(FileExistsError):  # another process was faster
            os.mkdir(path, _FOLDER_MODE)
    _check_owned(path, os.lstat(path), "folder")
    if os.name == "posix" and stat.S_IMODE(os.lstat(path).st_mode) != _FOLDER_MODE:
        os.chmod(path, _FOLDER_MODE)
    return made


def _check_owned(path: Path | str, status: os.stat_result, kind: Literal["file", "folder"]) -> None:
    """Raise UnsafePathError unless `status` is of this kind, ours, and (a file) linked once."""
    if not (stat.S_ISDIR if kind == "folder" else stat.S_ISREG)(status.st_mode):
        raise UnsafePathError(f"{path} is no plain {kind}: it is left alone")
    if _euid() is not None and status.st_uid != _euid():
        raise UnsafePathError(f"{path} belongs to another user: it is left alone")
    if kind == "file" and status.st_nlink > 1:
        raise UnsafePathError(f"{path} has a second name (hard link): it is left alone")


def refuse_links(folder: Path) -> None:
    """Raise UnsafePathError if a file of the folder is a link, has a second name or another owner."""
    with os.scandir(folder) as entries:
        for entry in entries:
            _check_owned(entry.path, entry.stat(follow_symlinks=False), "file")


def _open(path: Path | str, flags: int, mode: int = 0) -> int:
    """Open a file, not inherited by any program that is started, and not as a standard stream."""
    with streams_kept_free():
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), mode)


def open_own(path: Path | str, flags: int) -> int:
    """Open a private file of ours, created 0600; a link or a foreign file raises UnsafePathError."""
    try:
        descriptor = _open(path, flags | _NOFOLLOW, 0o600)
    except OSError as error:
        if os.path.islink(path):
            raise UnsafePathError(f"{path} is a link: it is left alone") from error
        raise
    try:
        _check_owned(path, os.fstat(descriptor), "file")
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bounded(path: Path, limit: int = _MAX_FILE_BYTES, *, follow: bool = True) -> bytes:
    """Give the whole of a small file. Raises OSError, with EFBIG over `limit` and EISDIR for no plain file."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    descriptor = _open(path, flags if follow else flags | _NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EISDIR, "no plain file")
        data = b""
        while len(data) <= limit and (part := os.read(descriptor, limit + 1 - len(data))):
            data += part
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes")
    return data


def signature(path: Path) -> Signature | None:
    """Give a value that changes when the file does, by one system call; None where it can't be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def write_new(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Create `path` with `data`, 0600; FileExistsError if it is there. What fails leaves nothing behind."""
    descriptor = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise


def publish(source: Path, target: Path, *, durable: bool = False) -> None:
    """Give a finished file its name in one step; with `durable` the name survives a power cut."""
    os.replace(source, target)
    if durable:
        sync_folder(target.parent)


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replace `path` by `data` in one step: a reader sees the old or the new file, whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    write_new(draft, data, durable=durable)
    try:
        publish(draft, path, durable=durable)
    except BaseException:
        os.unlink(draft)
        raise


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut (POSIX only; elsewhere there is no such call)."""
    if os.name != "posix":
        return
    descriptor = _open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
