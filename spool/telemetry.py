"""Telemetry: the one object that a host holds."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spool.consent import File, is_set, opted_out_by
from spool.errors import InvalidEventError, OptedOutError, SpoolError
from spool.identity import Consent, Identity, Watch, consent, signature
from spool.paths import Paths, resolve_home
from spool.settings import DEFAULT_HOST, Durability, FlushMode, Limits, env_prefix
from spool.wipe import wipe_once

if TYPE_CHECKING:
    from uuid import UUID

    from spool.event import Event
    from spool.spool import Spool

__all__ = ["Receipt", "Telemetry"]


class Receipt(NamedTuple):
    """What became of a capture. True exactly when the event is on disk."""

    state: Literal["queued", "aside", "debug", "disabled", "lost"]
    uuid: str | None = None
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.state in ("queued", "aside")


class Telemetry:
    """Spools a host's events. One for each process and app; threads may share it.

    Construction touches no file. The first capture opens the queue; `close` (or the end of the process)
    closes it. `project_key` None keeps the events until a key is known. `geoip_disable` (as in
    posthog-python, by default) keeps PostHog from looking up where the sender's address is;
    `person_profiles` False keeps it from making a person profile, which groups need.

    Raises ValueError for an app that is no plain name, a personal key (`phx_`) and an unknown `durability`
    or `flush`: mistakes that show at the first run of the author.
    """

    def __init__(  # noqa: PLR0913 - the options of the contract, each by name
        self,
        app: str,
        version: str,
        project_key: str | None = None,
        host: str = DEFAULT_HOST,
        home: Path | str | None = None,
        catalogue: object = None,
        limits: Limits | None = None,
        durability: Durability = "process",
        flush: FlushMode = "auto",
        *,
        geoip_disable: bool = True,
        person_profiles: bool = True,
    ) -> None:
        self._prefix = env_prefix(app)
        if project_key is not None and project_key.startswith("phx_"):
            raise ValueError("project_key is a personal key (phx_): use the project's own (phc_), it can only capture")
        if durability not in ("process", "power") or flush not in ("auto", "never"):
            raise ValueError('durability is "process" or "power", flush is "auto" or "never"')
        self.app = app
        self.version = version
        self.limits = limits or Limits()
        self._destination = {"host": host, "project_key": project_key}
        self._home = home
        self._catalogue = catalogue
        self._durability: Durability = durability
        self._flush_mode: FlushMode = flush
        self._privacy = {"geoip_disable": geoip_disable, "person_profiles": person_profiles}
        self._watch = Watch(app)
        self._signals_held: Any = None
        self._loading: int | None = None
        self._missed = 0
        self._spools: dict[Path, Spool] = {}
        self._common: dict[str, Any] | None = None

    # -- identity ---------------------------------------------------------------------------------------

    @property
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        home = resolve_home(self.app, self._home, os.environ)
        return Paths(home) if home is not None else None

    @property
    def identity(self) -> Identity:
        """Who this install is, whether it is counted now, and by which rule. Reads the file each time."""
        return consent(self.app, self.paths, os.environ).identity

    def project_id(self, project_dir: Path | str) -> str:
        """Give the id of a project of this install: 64 hexadecimal digits that name neither.

        sha256 of `{install_id}:{resolved dir}`. Empty where there is no install id, as when telemetry is off
        before the first run: `capture` leaves such a group out.
        """
        from hashlib import sha256  # noqa: PLC0415 - OpenSSL, some milliseconds, for hosts with projects

        identity = self._admit(self.paths).identity
        if identity.install_id is None:
            return ""
        return sha256(f"{identity.install_id}:{os.path.realpath(project_dir)}".encode()).hexdigest()

    def _admit(self, paths: Paths | None) -> Consent:
        """Give the consent to capture under; the first run mints an identity, an opt-out deletes what waits."""
        now = self._watch.consent(paths, os.environ)
        if paths is None:
            return now
        if now.file is File.DISABLED and now.identity.decided_by == "telemetry.json":
            wipe_once(paths, now.signature)
        if not now.identity.enabled or now.identity.install_id is not None:
            return now
        from spool.first_run import first_run  # noqa: PLC0415 - once in the life of an install

        try:
            minted = first_run(paths, self._first_event)
        except (OSError, SpoolError):
            return now._replace(identity=Identity(None, enabled=False, decided_by="home not usable"))
        if minted:
            self._say(_notice(self.app, self._prefix), dim=True)
        return self._watch.consent(paths, os.environ)

    def _first_event(self, install_id: str) -> str:
        identity = Identity(install_id, enabled=True, decided_by="first run")
        return self._build(identity, "install_first_run", None, uuid=install_id).text

    # -- capture ----------------------------------------------------------------------------------------

    def capture(  # noqa: PLR0913 - after posthog-python's capture
        self,
        event: str,
        properties: Mapping[str, Any] | None = None,
        *,
        distinct_id: str | None = None,
        groups: Mapping[str, str] | None = None,
        timestamp: datetime | None = None,
        uuid: str | UUID | None = None,
    ) -> Receipt:
        """Put an event on disk; with a true receipt it survives kill -9 of any process.

        Never raises for what the machine does, never waits longer than `limits.lock_wait_s` for a lock,
        never touches stdout or the network. A programming mistake is counted as lost and said in the
        receipt; with `<APP>_TELEMETRY_STRICT=1` it raises InvalidEventError.
        """
        variable = opted_out_by(self.app, os.environ)
        if variable is not None and not self._debug:
            return Receipt("disabled", reason=variable)
        if not self._load():
            self._missed += 1
            return Receipt("lost", reason="a signal handler captured while the first capture was loading")
        with self._signals_held():  # what a handler of the host raises is the host's, and comes out after this
            options = {"distinct_id": distinct_id, "groups": groups, "timestamp": timestamp, "uuid": uuid}
            return self._receive(event, properties, options)

    def _load(self) -> bool:
        """Import what a capture needs, once; False inside a capture that is at it: its modules are half made."""
        if self._loading == get_ident():
            return False
        if self._signals_held is None:
            self._loading = get_ident()
            try:
                from spool import destination, event, host_facts, spool  # noqa: F401, PLC0415 - at first use
                from spool.interrupts import signals_held  # noqa: PLC0415 - with them

                self._signals_held = signals_held
            finally:
                self._loading = None
        return True

    def _receive(self, event: str, properties: Mapping[str, Any] | None, options: dict[str, Any]) -> Receipt:
        paths = None
        try:
            paths = self.paths
            if self._debug:
                identity = consent(self.app, paths, os.environ).identity
                return self._show(self._build(identity, event, properties, **options))
            admitted = self._admit(paths)
            if paths is None or not admitted.identity.enabled:
                return Receipt("disabled", reason=admitted.identity.decided_by)
            return self._capture(paths, admitted, self._build(admitted.identity, event, properties, **options))
        except InvalidEventError as error:
            if self._strict:
                raise
            if not self._debug and paths is not None:
                self._spool(paths).count_lost(error.cause)
            return Receipt("lost", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the host comes first: whatever it is, it is a receipt
            return Receipt("lost", reason=type(error).__name__)

    def _capture(self, paths: Paths, admitted: Consent, frozen: Event) -> Receipt:
        def guard() -> None:
            if signature(paths) != admitted.signature and not self._admit(paths).identity.enabled:
                raise OptedOutError("consent was withdrawn")

        spool = self._spool(paths)
        while self._missed:
            self._missed -= 1
            spool.tally.add("reentered")
        try:
            reason = spool.put(frozen, guard)
        except OptedOutError:
            return Receipt("disabled", reason=self.identity.decided_by)
        except SpoolError as refusal:
            return Receipt("lost", frozen.uuid, str(refusal))
        return Receipt("queued" if reason is None else "aside", frozen.uuid, reason)

    def _build(
        self,
        identity: Identity,
        event: str,
        properties: Mapping[str, Any] | None,
        *,
        distinct_id: str | None = None,
        groups: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Event:
        from spool.event import build, envelope  # noqa: PLC0415 - json and uuid, when something is captured

        return build(
            event,
            properties,
            {**self._common_fields(), **envelope(groups, **self._privacy)},
            distinct_id=distinct_id or identity.install_id or "unknown",
            timestamp=options.get("timestamp"),
            uuid=options.get("uuid"),
            max_bytes=self.limits.max_event_bytes,
        )

    def _show(self, frozen: Event) -> Receipt:
        self._say(f"[telemetry] {frozen.text}")
        return Receipt("debug", frozen.uuid, "telemetry is in debug mode: nothing is stored or sent")

    # -- parts ------------------------------------------------------------------------------------------

    def _spool(self, paths: Paths) -> Spool:
        """Give the spool of a home, made at its first use; a host may change its home between captures."""
        spool = self._spools.get(paths.home)
        if spool is None:
            from spool import destination  # noqa: PLC0415 - only what captures needs it
            from spool.spool import Spool  # noqa: PLC0415 - diskcache and filelock, some 20 ms

            spool = self._spools[paths.home] = Spool(paths, self.limits, self._durability)
            atexit.register(_close, weakref.ref(self))
            destination.leave(paths, self._destination, self.limits)
        return spool

    def _common_fields(self) -> dict[str, Any]:
        if self._common is None:
            from spool.host_facts import host_facts  # noqa: PLC0415 - only what captures needs it

            self._common = host_facts(self.version, os.environ)
        return self._common

    @property
    def _strict(self) -> bool:
        return is_set(os.environ.get(self._prefix + "TELEMETRY_STRICT"))

    @property
    def _debug(self) -> bool:
        return is_set(os.environ.get(self._prefix + "TELEMETRY_DEBUG"))

    def _say(self, line: str, *, dim: bool = False) -> None:
        """Write one line to stderr, which a daemon may have closed. Stdout may be a protocol channel."""
        try:
            dim = dim and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            sys.stderr.write(f"\033[2m{line}\033[0m\n" if dim else line + "\n")
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            return  # nobody listens: there is nobody left to tell

    def close(self) -> None:
        """Close the queue. Captures after this open it again."""
        for spool in self._spools.values():
            spool.close()


def _notice(app: str, prefix: str) -> str:
    return (
        f"{app} collects anonymous usage data to improve the product."
        f" To say no: set {prefix}TELEMETRY_DISABLED=1, or run ktx-flush --app {app} disable."
    )


def _close(reference: weakref.ref[Telemetry]) -> None:
    telemetry = reference()
    if telemetry is not None:
        telemetry.close()
