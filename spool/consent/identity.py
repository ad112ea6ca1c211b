"""Who this install is, and whether it may be counted: `telemetry.json`, shared with ktx.

The file's five keys are ktx's own. Its reader is strict: at any other key it would mint a new, enabled
identity, so none is ever added.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from spool.consent.rule import FileState, HomeState, decide
from spool.errors import LockBusyError, UnsafePathError
from spool.home import (
    Paths,
    Signature,
    has_modes,
    make_folder,
    private_folder,
    read_bounded,
    signature,
    sync_folder,
    write_atomic,
    write_new,
)

__all__ = [
    "Consent",
    "ConsentCache",
    "Identity",
    "consent",
    "decide_for_all",
    "home_state",
    "mint",
    "project_id",
    "read_stored",
    "telemetry_json",
]

_NOTICE_VERSION = 1
_REQUIRED = {"installId", "enabled", "createdAt"}
_OPTIONAL = {"noticeShownAt", "noticeShownVersion"}
_HEX = frozenset("0123456789abcdefABCDEF")
_GROUPS = (8, 4, 4, 4, 12)
_MAX_BYTES = 64 * 1024
# SQLite opens no path over 512 bytes, and the queue lies some 40 below the home.
_MAX_HOME_BYTES = 440


class Identity(NamedTuple):
    """This install: its id (None where there is none yet), whether it is counted, and by which rule."""

    install_id: str | None
    enabled: bool
    decided_by: str


class TelemetryFile(NamedTuple):
    """What `telemetry.json` holds: what it says, and the install id and its creation where they could be read."""

    file: FileState
    install_id: str | None = None
    created_at: str = ""


class Consent(NamedTuple):
    """The identity as it stands, what the file says, and the file's signature (None where there is none)."""

    identity: Identity
    file: FileState
    signature: Signature | None

    @property
    def refused(self) -> bool:
        """Whether the person said no, in the file: then what waits is deleted."""
        return self.file is FileState.DISABLED and self.identity.decided_by == "telemetry.json"


def parse(data: bytes) -> TelemetryFile:
    """Read the file's bytes as strictly as ktx does."""
    import json  # noqa: PLC0415 - five modules that a command which a variable opts out does not need

    try:
        fields = json.loads(data.decode())  # as bytes it would take UTF-16 and a mark, which ktx does not read
    except (ValueError, RecursionError):
        return TelemetryFile(FileState.UNREADABLE)
    if not isinstance(fields, dict) or not _is_ktx_shape(fields):
        return TelemetryFile(FileState.UNREADABLE)
    file = FileState.ENABLED if fields["enabled"] else FileState.DISABLED
    return TelemetryFile(file, fields["installId"], fields["createdAt"])


def _is_ktx_shape(fields: dict[str, Any]) -> bool:
    keys = set(fields)
    return (
        keys >= _REQUIRED
        and keys <= _REQUIRED | _OPTIONAL
        and isinstance(fields["enabled"], bool)
        and isinstance(fields["createdAt"], str)
        and isinstance(fields.get("noticeShownAt", ""), str)
        and _is_whole(fields.get("noticeShownVersion", 0))
        and isinstance(fields["installId"], str)
        and _is_uuid(fields["installId"])
    )


def _is_uuid(text: str) -> bool:
    """Tell whether ktx's reader accepts a text as a UUID: RFC 9562, versions 1 to 8, the usual variant."""
    parts = text.split("-")
    return (
        tuple(map(len, parts)) == _GROUPS
        and _HEX.issuperset("".join(parts))
        and parts[2][0] in "12345678"
        and parts[3][0] in "89abAB"
    )


def _is_whole(value: object) -> bool:
    """Tell whether JavaScript takes a value for a safe whole number: 1.0 is one, nothing from 2**53 on is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and value % 1 == 0


def read_stored(path: Path) -> TelemetryFile:
    """Read `telemetry.json`. If it can't be read, for whatever reason, it is unreadable, which means off.

    So is one that another user has made, linked here, or may write to: this person didn't write it.
    """
    try:
        return parse(read_bounded(path, _MAX_BYTES)) if _is_own_word(path) else TelemetryFile(FileState.UNREADABLE)
    except FileNotFoundError:
        # A dangling link is a file that can't be read.
        return TelemetryFile(FileState.UNREADABLE if os.path.islink(path) else FileState.ABSENT)
    except NotADirectoryError:
        return TelemetryFile(FileState.ABSENT)
    except OSError:
        return TelemetryFile(FileState.UNREADABLE)


def _is_own_word(path: Path) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    trusted, status = (os.geteuid(), 0), os.stat(path)
    return {os.lstat(path).st_uid, status.st_uid} <= set(trusted) and not _open_to_all(path, status)


def _open_to_all(path: Path, status: os.stat_result) -> bool:
    """Tell whether every user may change the file, or what is in the folder. A group may: it is mostly one's own."""
    return status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH and has_modes(path)


def home_state(home: Path | None) -> HomeState:
    """Tell whether this process may use a home, without touching it.

    Root in another user's home (sudo) would leave files there that the owner can't write.
    """
    if home is None or len(os.fsencode(home)) > _MAX_HOME_BYTES:
        return HomeState.UNUSABLE
    try:
        status, found = _nearest(home)
        link = os.lstat(found)
    except OSError:
        return HomeState.UNUSABLE
    if found == home and not stat.S_ISDIR(status.st_mode):
        return HomeState.UNUSABLE
    if hasattr(os, "geteuid"):
        mine = os.geteuid()
        if (mine == 0 and status.st_uid != 0) or (found == home and not {status.st_uid, link.st_uid} <= {mine, 0}):
            return HomeState.FOREIGN
    return HomeState.USABLE if _allows(found, os.X_OK) else HomeState.UNUSABLE


def _state_for_first_run(home: Path) -> HomeState:
    """Tell the same of a usable home without a `telemetry.json`: whether a first run can, and may, leave one there.

    Where every user may write, any of them may have deleted the one that said no.
    """
    status, found = _nearest(home)
    if found == home and hasattr(os, "geteuid") and _open_to_all(home, status):
        return HomeState.FOREIGN
    return HomeState.USABLE if _allows(found, os.W_OK | os.X_OK) else HomeState.UNUSABLE


def _allows(path: Path, mode: int) -> bool:
    """Ask the system, for the user that this process acts as."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _nearest(path: Path) -> tuple[os.stat_result, Path]:
    """Give the status of the path, or of the nearest folder above it that is there."""
    while True:
        try:
            return os.stat(path), path
        except FileNotFoundError:
            if path.parent == path:
                raise
            path = path.parent


def consent(app: str, paths: Paths | None, env: Mapping[str, str]) -> Consent:
    """Say who this install is and whether it may be counted now. Reads, and never writes."""
    home = home_state(paths.home if paths else None)
    stored, seen = TelemetryFile(FileState.ABSENT), None
    if paths is not None and home is HomeState.USABLE:
        seen = signature(paths.identity)  # before the reading: a change in between shows as another signature
        stored = read_stored(paths.identity)
        if stored.file is FileState.ABSENT:
            home = _state_for_first_run(paths.home)
    decision = decide(app, env, home, stored.file)
    return Consent(Identity(stored.install_id, decision.enabled, decision.decided_by), stored.file, seen)


def _mended(home: Path) -> bool:
    """Give an empty folder of ours that can't be entered its mode: a release before this one made it so under a umask.

    Nobody can have decided anything in it.
    """
    try:
        if os.stat(home).st_mode & stat.S_IXUSR or os.listdir(home):
            return False
        private_folder(home)
    except (OSError, UnsafePathError):
        return False
    return True


class ConsentCache:
    """Consent for a process that asks often: the file is read again only when it has changed."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._home: Path | None = None
        self._last: Consent | None = None

    def ask(self, paths: Paths | None, env: Mapping[str, str], off_by: str | None) -> Consent:
        """Give what `consent` gives, from memory while file and home are the same and no variable says no."""
        last = self._last
        if last is not None and paths is not None and paths.home == self._home and off_by is None:
            unchanged = last.signature is not None and last.signature == signature(paths.identity)
            if unchanged and last.identity.install_id is not None:
                return last
        found = consent(self._app, paths, env)
        if paths is not None and found.identity.decided_by == "home not usable" and _mended(paths.home):
            found = consent(self._app, paths, env)
        # A decision by anything else may change without the file.
        self._last = found if found.identity.decided_by in ("telemetry.json", "first run") else None
        self._home = paths.home if paths else None
        return found


def project_id(install_id: str | None, project_dir: Path | str) -> str:
    """Give the id of a project on an install: 64 hexadecimal digits that reveal neither. Empty without an install id.

    sha256 of `{install_id}:{resolved dir}`.
    """
    from hashlib import sha256  # noqa: PLC0415 - OpenSSL, some milliseconds, for hosts with projects

    if install_id is None:
        return ""
    try:
        return sha256(os.fsencode(f"{install_id}:{os.path.realpath(project_dir)}")).hexdigest()
    except (OSError, ValueError):  # a working folder that was deleted, a name with a NUL in it
        return ""


def telemetry_json(install_id: str, *, enabled: bool = True) -> bytes:
    """Write a new file's five keys, as ktx does."""
    import json  # noqa: PLC0415 - loaded by the reading before

    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {
        "installId": install_id,
        "enabled": enabled,
        "noticeShownAt": now,
        "noticeShownVersion": _NOTICE_VERSION,
        "createdAt": now,
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def mint(paths: Paths, install_id: str, wait_s: float) -> bool:
    """Make `install_id` this install's identity, enabled, unless there is one. True for one of many at once.

    The file appears whole, 0600. Raises OSError where the home can't be written, and LockBusyError where link(2) is
    refused and the queue is held for `wait_s`.
    """
    make_folder(paths.home)
    beside = paths.home / f".telemetry.json.{os.getpid()}.{os.urandom(4).hex()}"
    write_new(beside, telemetry_json(install_id), durable=True)
    try:
        won = _publish_new(beside, paths, wait_s)
    finally:
        with suppress(FileNotFoundError):  # it was renamed
            os.unlink(beside)
    if won:
        with suppress(OSError):  # it is published; a disk that can't sync its name now may do so later
            sync_folder(paths.home)  # a power cut must not make another install of it
    return won


def _publish_new(beside: Path, paths: Paths, wait_s: float) -> bool:
    """Give a finished file the name `telemetry.json`, unless there is one; True if this did it.

    By link(2), which fails where there is one. It is refused on exFAT, by much of FUSE, and on Android, where Python
    may have none: there the name is looked for and given under the queue's lock, which ends with its process. Created
    by its name and then written, the file could be left half: unreadable, and so off for ever.
    """
    try:
        os.link(beside, paths.identity)
    except FileExistsError:
        return False
    except (OSError, AttributeError):
        from spool.queue import FileLock  # noqa: PLC0415 - filelock, where link(2) is refused

        try:
            with FileLock(paths.queue_lock).held(wait_s):
                if os.path.lexists(paths.identity):
                    return False
                os.rename(beside, paths.identity)
        except LockBusyError:
            if not os.path.lexists(paths.identity):
                raise
            return False  # whoever was faster goes on to make the queue
    return True


def decide_for_all(paths: Paths, *, enabled: bool) -> None:
    """Write a person's decision into `telemetry.json`; everything else in the file stays as it is.

    A file that can't be parsed, or is another user's, is replaced, which repairs it. Raises OSError.
    """
    import json  # noqa: PLC0415 - with the file's reader

    try:
        fields = json.loads(read_bounded(paths.identity, _MAX_BYTES)) if _is_own_word(paths.identity) else None
    except (FileNotFoundError, ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and _is_ktx_shape(fields):
        data = (json.dumps({**fields, "enabled": enabled}, indent=2) + "\n").encode()
    else:
        data = telemetry_json(_install_id_of(fields), enabled=enabled)
    make_folder(paths.home)
    write_atomic(paths.identity, data)


def _install_id_of(fields: object) -> str:
    """Keep the install id of a file that is invalid in another way; else make one."""
    found = fields.get("installId") if isinstance(fields, dict) else None
    if isinstance(found, str) and _is_uuid(found):
        return found
    from uuid import uuid4  # noqa: PLC0415 - once in the life of an install

    return str(uuid4())
