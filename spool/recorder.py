"""From a host's call to an event on disk: consent, composition, the spool. What a Telemetry works with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spool.consent import File, is_set, opted_out_by
from spool.errors import InvalidEventError, OptedOutError, SpoolError
from spool.identity import Consent, Identity, Signature, Watch, consent, signature
from spool.paths import Paths, resolve_home
from spool.settings import Durability, FlushMode, Limits, env_prefix
from spool.wipe import wipe_once

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from spool.catalogue import Catalogue
    from spool.event import Event
    from spool.spool import Spool

__all__ = ["Options", "Receipt", "Recorder"]


class Receipt(NamedTuple):
    """What became of a capture. True exactly when the event is on disk."""

    state: Literal["queued", "aside", "debug", "disabled", "lost"]
    uuid: str | None = None
    reason: str | None = None

    def __bool__(self) -> bool:
        return self.state in ("queued", "aside")


class Options(NamedTuple):
    """What a host chose when it made its Telemetry."""

    app: str
    version: str
    destination: dict[str, str | None]
    home: Path | str | None
    limits: Limits
    durability: Durability
    privacy: dict[str, bool]
    catalogue: Catalogue | None = None
    flush: FlushMode = "never"
    flush_interval_s: float = 300.0


class Recorder:
    """Puts events on disk for one host. Nothing here raises for the machine, waits long, or prints to stdout."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.prefix = env_prefix(options.app)
        # Called at each event: a command that is under way leaves word that it lives.
        self.on_event: Callable[[], None] | None = None
        self._watch = Watch(options.app)
        self._spools: dict[Path, Spool] = {}
        self._common: dict[str, Any] | None = None
        self._held: Callable[[], AbstractContextManager[None]] | None = None
        self._loading: int | None = None
        self._missed = 0
        # The process is at its end: nobody waits for a child of its any more.
        self.at_exit = False
        self._child: int | None = None
        self._wiped: Signature | None = None

    # -- what the world says ----------------------------------------------------------------------------

    @property
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        home = resolve_home(self.options.app, self.options.home, os.environ)
        return Paths(home) if home is not None else None

    @property
    def identity(self) -> Identity:
        """Who this install is, whether it is counted now, and by which rule."""
        return consent(self.options.app, self.paths, os.environ).identity

    @property
    def strict(self) -> bool:
        """Whether programming mistakes raise."""
        return is_set(os.environ.get(self.prefix + "TELEMETRY_STRICT"))

    @property
    def debug(self) -> bool:
        """Whether events are shown and neither stored nor sent."""
        return is_set(os.environ.get(self.prefix + "TELEMETRY_DEBUG"))

    def silenced_by(self) -> str | None:
        """Name the variable that switches this process off; debug mode shows events all the same."""
        return None if self.debug else opted_out_by(self.options.app, os.environ)

    def admit(self, paths: Paths | None) -> Consent:
        """Give the consent to capture under; the first run mints an identity, an opt-out deletes what waits."""
        now = self._watch.consent(paths, os.environ)
        if paths is None or self.debug:
            return now
        said_no = now.file is File.DISABLED and now.identity.decided_by == "telemetry.json"
        if said_no and self._wiped != now.signature:  # once a process: what stays is deleted by the next one
            self._wiped = now.signature
            wipe_once(paths, now.signature, self.options.limits.lock_wait_s)
        if not now.identity.enabled or now.identity.install_id is not None:
            return now
        from spool.first_run import first_run  # noqa: PLC0415 - once in the life of an install

        try:
            minted = first_run(paths, self._first_event)
        except (OSError, SpoolError):
            return now._replace(identity=Identity(None, enabled=False, decided_by="home not usable"))
        if minted:
            self.say(_notice(self.options.app, self.prefix), dim=True)
        return self._watch.consent(paths, os.environ)

    def _first_event(self, install_id: str) -> str:
        identity = Identity(install_id, enabled=True, decided_by="first run")
        return self.freeze(self.compose(identity, "install_first_run", None, uuid=install_id)).text

    # -- events -----------------------------------------------------------------------------------------

    def load(self) -> bool:
        """Import what a capture needs, once; False inside a capture that is at it: its modules are half made."""
        if self._loading == get_ident():
            return False
        if self._held is None:
            self._loading = get_ident()
            try:
                from spool import destination, event, host_facts, spool  # noqa: F401, PLC0415 - at first use
                from spool.interrupts import signals_held  # noqa: PLC0415 - with them

                self._held = signals_held
            finally:
                self._loading = None
        return True

    def held(self) -> AbstractContextManager[None]:
        """Hold signals back for steps that must not be cut; `load` comes first."""
        assert self._held is not None  # noqa: S101 - a mistake of this package, not of a host
        return self._held()

    def compose(
        self,
        identity: Identity,
        event: str,
        properties: Mapping[str, Any] | None,
        *,
        distinct_id: str | None = None,
        groups: Mapping[str, str] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Put an event together under an identity; InvalidEventError if it is none, or not in the catalogue."""
        from spool.event import compose, envelope  # noqa: PLC0415 - json and uuid, when something is captured
        from spool.host_facts import host_facts  # noqa: PLC0415 - with them

        if self._common is None:
            self._common = host_facts(self.options.version, os.environ)
        return compose(
            event,
            self.check(event, properties),
            {**self._common, **envelope(groups, **self.options.privacy)},
            distinct_id=distinct_id or identity.install_id or "unknown",
            timestamp=options.get("timestamp"),
            uuid=options.get("uuid"),
        )

    def check(self, event: str, properties: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Hold an event against the host's catalogue, if there is one."""
        if self.options.catalogue is None:
            return properties
        return self.options.catalogue.check(event, properties)

    def freeze(self, message: Mapping[str, Any]) -> Event:
        """Freeze an event within the limit of its size."""
        from spool.event import freeze  # noqa: PLC0415 - json, when something is captured

        return freeze(message, self.options.limits.max_event_bytes)

    def record(self, compose: Callable[[Identity], Mapping[str, Any]], closes: str | None = None) -> Receipt:
        """Put the event that `compose` makes for the identity on disk; call it with signals held.

        `closes` is the uuid of the command whose event it is. Raises InvalidEventError in strict mode.
        """
        try:
            paths = self.paths
            admitted = self.admit(paths)
            if not (self.debug or admitted.identity.enabled):
                return Receipt("disabled", reason=admitted.identity.decided_by)
            frozen = self.freeze(compose(admitted.identity))
            if self.debug or paths is None:
                return self._show(frozen)
            return self._put(paths, admitted, frozen, closes)
        except InvalidEventError as error:
            self.lose(error)
            return Receipt("lost", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the host comes first: whatever it is, it is a receipt
            return Receipt("lost", reason=type(error).__name__)

    def lose(self, mistake: InvalidEventError) -> None:
        """Count an event that is none: a programming mistake, which raises in strict mode."""
        if self.strict:
            raise mistake
        if not self.debug and (paths := self.paths) is not None:
            self.spool(paths).count_lost(mistake.cause)

    def _put(self, paths: Paths, admitted: Consent, frozen: Event, closes: str | None = None) -> Receipt:
        def guard() -> None:
            if signature(paths) != admitted.signature and not self.admit(paths).identity.enabled:
                raise OptedOutError("consent was withdrawn")

        if self.on_event is not None:
            self.on_event()
        spool = self.spool(paths)
        while self._missed:
            self._missed -= 1
            spool.tally.add("reentered")
        if not os.path.exists(paths.destination):
            self._leave_destination(paths)
        try:
            reason = spool.put(frozen, guard, closes)
        except OptedOutError:
            return Receipt("disabled", reason=self.identity.decided_by)
        except SpoolError as refusal:
            return Receipt("lost", frozen.uuid, str(refusal))
        return Receipt("queued" if reason is None else "aside", frozen.uuid, reason)

    def miss(self) -> Receipt:
        """Remember an event of a signal handler that came while the first capture was loading its modules."""
        self._missed += 1
        return Receipt("lost", reason="captured by a signal handler while the first capture was loading")

    def _show(self, frozen: Event) -> Receipt:
        self.say(f"[telemetry] {frozen.text}")
        return Receipt("debug", frozen.uuid, "telemetry is in debug mode: nothing is stored or sent")

    # -- the spool --------------------------------------------------------------------------------------

    def spool(self, paths: Paths) -> Spool:
        """Give the spool of a home, made at its first use; a host may change its home between captures."""
        spool = self._spools.get(paths.home)
        if spool is None:
            from spool.launch import waits  # noqa: PLC0415 - only what captures needs it
            from spool.spool import Spool  # noqa: PLC0415 - diskcache and filelock, some 20 ms

            waited = waits(paths)
            spool = self._spools[paths.home] = Spool(paths, self.options.limits, self.options.durability)
            self._leave_destination(paths)
            spool.recover()
            if self.options.flush == "auto" and waited:
                self.launch(paths)
        return spool

    def _leave_destination(self, paths: Paths) -> None:
        """Tell a bare flusher where to deliver; again, when the folder was removed under us."""
        from spool import destination  # noqa: PLC0415 - loaded already, by `load`

        destination.leave(paths, self.options.destination, self.options.limits)

    def launch(self, paths: Paths) -> None:
        """Start a flusher, detached, if one is due; reap what one before may have left."""
        from spool import launch  # noqa: PLC0415 - for hosts that start one

        if self._child is not None:
            with suppress(ChildProcessError):
                if os.waitpid(self._child, os.WNOHANG) == (0, 0):
                    return
        reap_s = 0.0 if self.at_exit else launch.REAP_S
        self._child = launch.launch_if_due(self.options.app, paths, self.options.flush_interval_s, reap_s)

    def close(self) -> None:
        """Close the queues; at the end of a process that captured something a flush may be due."""
        for spool in self._spools.values():
            spool.close()
            if self.options.flush == "auto" and self.silenced_by() is None and self.identity.enabled:
                self.launch(spool.paths)

    def say(self, line: str, *, dim: bool = False) -> None:
        """Write one line to stderr, which a daemon may have closed. Stdout may be a protocol channel."""
        try:
            dim = dim and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
            sys.stderr.write(f"\033[2m{line}\033[0m\n" if dim else line + "\n")
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            return  # nobody listens: there is nobody left to tell


def now_utc() -> datetime:
    """The moment, as events have it."""
    return datetime.now(UTC)


def _notice(app: str, prefix: str) -> str:
    return (
        f"{app} collects anonymous usage data to improve the product."
        f" To say no: set {prefix}TELEMETRY_DISABLED=1, or run ktx-flush --app {app} disable."
    )
