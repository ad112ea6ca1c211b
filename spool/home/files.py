"""Small private files: created 0600 in 0700 folders under any umask, never through a link."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from spool.errors import UnsafePathError
from spool.home.descriptors import streams_kept_free

__all__ = [
    "Kind",
    "Signature",
    "is_odd",
    "is_plain",
    "listed",
    "make_folder",
    "oddity",
    "open_found",
    "open_own",
    "private_folder",
    "publish",
    "read_bounded",
    "read_state",
    "restore_mode",
    "signature",
    "sync_folder",
    "write_atomic",
    "write_new",
]

# Time of change of the content, which anybody may set; inode; size; and time of any change, which nobody can set.
Signature = tuple[int, int, int, int]
Kind = Literal["file", "folder"]

# No file of ours is larger: they hold state, or one event of at most 1 MB.
_MAX_FILE_BYTES = 2_000_000
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
# How a file system says that it can't do what others can. An owner may always change a mode where there are any.
_NO_MODES = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# A pipe that nobody writes to is not waited for.
_ALWAYS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
# Every count and size that can be meant has fewer digits; a whole number of 400 fits into no float.
_MOST_DIGITS = 19


def _euid() -> int | None:
    return os.geteuid() if hasattr(os, "geteuid") else None


def private_folder(path: Path) -> bool:
    """Make sure that `path` is a real folder of ours that nobody else can enter. True if it was made now.

    Parents are created as needed, as private. Raises UnsafePathError for a link, another kind of file or a foreign
    owner; OSError where the machine refuses.
    """
    made = make_folder(path)
    status = os.lstat(path)
    _check_owned(path, status, "folder")
    if stat.S_IMODE(status.st_mode) != _FOLDER_MODE:
        _set_mode(path, _FOLDER_MODE)
    return made


def make_folder(path: Path) -> bool:
    """Make a folder that only we can enter, and those above it that are missing. False if something is there already.

    Whatever the umask is (one for all threads, so it is never changed here): the folder gets its name when it has its
    mode. Otherwise another first run, in the moment between, would meet a folder that it can't enter.
    """
    if os.path.lexists(path):
        return False
    if path.parent != path:
        make_folder(path.parent)
    draft = path.with_name(f".{path.name}.new")  # of one name, so that one which a killed process left is used
    if is_odd(draft, "folder"):
        draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")
    try:
        with suppress(FileExistsError):
            os.mkdir(draft, _FOLDER_MODE)
        _check_owned(draft, os.lstat(draft), "folder")
        _set_mode(draft, _FOLDER_MODE)
        os.replace(draft, path)
    except OSError as error:
        if not os.path.lexists(path):
            raise OSError(error.errno, error.strerror, str(path)) from error
        with suppress(OSError):  # another process was faster, perhaps with this draft
            os.rmdir(draft)
        return False
    return True


def _set_mode(what: Path | str | int, mode: int) -> None:
    """Give a file or folder of ours its mode, where the file system has modes: exFAT and Android's FUSE have none."""
    if os.name != "posix":
        return
    try:
        os.chmod(what, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def oddity(path: Path | str, kind: Kind) -> str | None:
    """Say what keeps an entry from being a plain file or folder of ours; None if nothing does.

    The entry itself, never what it leads to. Raises OSError, mostly FileNotFoundError, where it can't be looked at.
    """
    return _odd(os.lstat(path), kind)


def is_odd(path: Path | str, kind: Kind) -> bool:
    """Tell whether something stands there that is no plain file or folder of ours."""
    try:
        return oddity(path, kind) is not None
    except OSError:  # nothing there, mostly
        return False


def _odd(status: os.stat_result, kind: Kind) -> str | None:
    if not (stat.S_ISDIR if kind == "folder" else stat.S_ISREG)(status.st_mode):
        return f"is no plain {kind}"
    if _euid() is not None and status.st_uid != _euid():
        return "belongs to another user"
    if kind == "file" and status.st_nlink > 1:
        return "has a second name (hard link)"
    return None


def _check_owned(path: Path | str, status: os.stat_result, kind: Kind) -> None:
    """Raise UnsafePathError unless `status` is of this kind, ours, and (a file) linked once."""
    odd = _odd(status, kind)
    if odd is not None:
        raise UnsafePathError(f"{path} {odd}: it is left alone")


def is_plain(path: Path | str) -> bool:
    """Tell whether an entry is a plain file, whoever it belongs to; False where it can't be looked at."""
    with suppress(OSError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def restore_mode(path: Path | str) -> bool:
    """Open a file of ours to us again, if its mode shuts us out. True if that was so."""
    status = os.lstat(path)
    shut = _odd(status, "file") is None and status.st_mode & _FILE_MODE != _FILE_MODE
    if shut:
        _set_mode(path, _FILE_MODE)
    return shut


def listed(folder: Path, most: int | None = None) -> list[str]:
    """Give the names in a folder, or the first `most` of them, in no order; none where it can't be listed.

    A link to a folder is none: what it leads to is not ours.
    """
    if os.path.islink(folder):
        return []
    try:
        with streams_kept_free(), os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, most)]
    except OSError:
        return []


def _open(path: Path | str, flags: int, mode: int = 0) -> int:
    """Open a file, not inherited by any program that is started, and not as a standard stream."""
    with streams_kept_free():
        return os.open(path, flags | _ALWAYS, mode)


def open_own(path: Path | str, flags: int) -> int:
    """Open a private file of ours, created 0600; a link or a foreign file raises UnsafePathError."""
    try:
        descriptor = _open_itself(path, flags)
    except PermissionError:
        if not restore_mode(path):
            raise
        descriptor = _open_itself(path, flags)
    try:
        _check_owned(path, os.fstat(descriptor), "file")
        _set_mode(descriptor, _FILE_MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_found(path: Path | str, flags: int) -> int:
    """Open a plain file that is there, without changing it: its owner and its other names don't matter.

    Raises UnsafePathError for anything else, OSError where it can't be opened.
    """
    descriptor = _open_itself(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePathError(f"{path} is no plain file: it is left alone")
    return descriptor


def _open_itself(path: Path | str, flags: int) -> int:
    try:
        return _open(path, flags | _NOFOLLOW, _FILE_MODE)
    except OSError as error:
        if os.path.islink(path):
            raise UnsafePathError(f"{path} is a link: it is left alone") from error
        raise


def read_bounded(path: Path, limit: int = _MAX_FILE_BYTES, *, follow: bool = True) -> bytes:
    """Give the whole of a small file. Raises OSError, with EFBIG over `limit` and EISDIR for no plain file."""
    descriptor = _open(path, os.O_RDONLY | (0 if follow else _NOFOLLOW))
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


def read_state(path: Path, limit: int = _MAX_FILE_BYTES) -> dict[str, Any] | None:
    """Give the JSON object that a state file of ours holds; None where there is none that reads, whatever is there.

    Each state file is read by this alone. Never waits and never raises: a link, a pipe, a folder, a file over `limit`,
    one that is shut, no UTF-8, no JSON, or nested without end is None. A number that no float can hold is infinite, so
    that arithmetic with what is read doesn't raise; NaN is None.
    """
    import json  # noqa: PLC0415 - five modules that a command which a variable opts out does not need

    try:
        data = read_bounded(path, limit, follow=False).decode()
        fields = json.loads(data, parse_int=_whole, parse_constant=_constant)
    except (OSError, ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def signature(path: Path) -> Signature | None:
    """Give a value that changes when the file does, by one system call; None where it can't be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_ctime_ns


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
        with suppress(FileNotFoundError):  # it has its name already
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
