"""Who this install is, and whether it may be counted: `telemetry.json`, shared with ktx.

The file's five keys are ktx's own. Its reader is strict: at any other key it would mint a new, enabled
identity, so none is ever added.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from spool.consent.rule import FileState, HomeState, decide
from spool.home import Paths, Signature, read_bounded, signature, sync_folder, write_atomic, write_new

__all__ = [
    "Consent",
    "ConsentCache",
    "Identity",
    "consent",
    "decide_for_all",
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
    """Read `telemetry.json`. If it can't be read, for whatever reason, it is unreadable, which means off."""
    try:
        return parse(read_bounded(path, _MAX_BYTES))
    except FileNotFoundError:
        # A dangling link is a file that can't be read.
        return TelemetryFile(FileState.UNREADABLE if os.path.islink(path) else FileState.ABSENT)
    except NotADirectoryError:
        return TelemetryFile(FileState.ABSENT)
    except OSError:
        return TelemetryFile(FileState.UNREADABLE)


def inspect(home: Path | None) -> HomeState:
    """Tell whether this process may use a home, without touching it.

    Root in another user's home (sudo) would leave files there that the owner can't write.
    """
    if home is None or len(os.fsencode(home)) > _MAX_HOME_BYTES:
        return HomeState.UNUSABLE
    try:
        status, found = _nearest(home)
    except OSError:
        return HomeState.UNUSABLE
    if found == home and not os.path.isdir(home):
        return HomeState.UNUSABLE
    if not hasattr(os, "geteuid"):
        return HomeState.USABLE
    mine = os.geteuid()
    if (mine == 0 and status.st_uid != 0) or (found == home and status.st_uid not in (mine, 0)):
        return HomeState.FOREIGN
    return HomeState.USABLE if os.access(found, os.X_OK) else HomeState.UNUSABLE


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
    home = inspect(paths.home if paths else None)
    stored, seen = TelemetryFile(FileState.ABSENT), None
    if paths is not None and home is HomeState.USABLE:
        seen = signature(paths.identity)  # before the reading: a change in between shows as another signature
        stored = read_stored(paths.identity)
    decision = decide(app, env, home, stored.file)
    return Consent(Identity(stored.install_id, decision.enabled, decision.decided_by), stored.file, seen)


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


def mint(paths: Paths, install_id: str) -> bool:
    """Make `install_id` this install's identity, enabled, unless there is one. True for one of many at once.

    The file appears whole, 0600. Raises OSError where the home can't be written.
    """
    os.makedirs(paths.home, 0o700, exist_ok=True)
    beside = paths.home / f".telemetry.json.{os.getpid()}.{os.urandom(4).hex()}"
    write_new(beside, telemetry_json(install_id), durable=True)
    try:
        os.link(beside, paths.identity)
    except FileExistsError:
        return False
    finally:
        os.unlink(beside)
    with suppress(OSError):  # it is published; a disk that can't sync its name now may do so later
        sync_folder(paths.home)  # a power cut must not make another install of it
    return True


def decide_for_all(paths: Paths, *, enabled: bool) -> None:
    """Write a person's decision into `telemetry.json`; everything else in the file stays as it is.

    A file that can't be parsed is replaced, which repairs it. Raises OSError.
    """
    import json  # noqa: PLC0415 - with the file's reader

    try:
        fields = json.loads(read_bounded(paths.identity, _MAX_BYTES))
    except (FileNotFoundError, ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and _is_ktx_shape(fields):
        data = (json.dumps({**fields, "enabled": enabled}, indent=2) + "\n").encode()
    else:
        data = telemetry_json(_install_id_of(fields), enabled=enabled)
    os.makedirs(paths.home, 0o700, exist_ok=True)
    write_atomic(paths.identity, data)


def _install_id_of(fields: object) -> str:
    """Keep the install id of a file that is invalid in another way; else make one."""
    found = fields.get("installId") if isinstance(fields, dict) else None
    if isinstance(found, str) and _is_uuid(found):
        return found
    from uuid import uuid4  # noqa: PLC0415 - once in the life of an install

    return str(uuid4())
