"""From a host's call to an event on disk: consent, composition, the spool. What a Telemetry works with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spool.admission import Admission
from spool.consent.identity import Consent, Identity, consent, signature
from spool.errors import InvalidEventError, OptedOutError, SpoolError
from spool.home.paths import Paths
from spool.settings import Durability, FlushMode, Limits, env_prefix
from spool.world import Environment, World

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from spool.catalogue import Catalogue
    from spool.catalogue import Event as TypedEvent
    from spool.event.build import Event
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
        # The names of the events that are on disk since the command began, or the process: for the audit.
        self.emitted: set[str] = set()
        self._environment = Environment(options.app, options.home)
        self._admission = Admission(options.app, options.limits.lock_wait_s)
        self._spools: dict[Path, Spool] = {}
        self._common: dict[str, Any] | None = None
        self._held: Callable[[], AbstractContextManager[None]] | None = None
        # spool.event, from `load` on: json and all.
        self._event: ModuleType | None = None
        self._loading: int | None = None
        self._missed = 0
        # The process is at its end: nobody waits for a child of its any more.
        self.at_exit = False
        self._child: int | None = None

    # -- what the world says ----------------------------------------------------------------------------

    @property
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        return self._environment.paths

    @property
    def identity(self) -> Identity:
        """Who this install is, whether it is counted now, and by which rule."""
        return consent(self.options.app, self.paths, os.environ).identity

    @property
    def strict(self) -> bool:
        """Whether programming mistakes raise."""
        return self._environment.strict

    def look(self) -> World:
        """Read the environment, once for what is done next."""
        return self._environment.look()

    def silenced_by(self, world: World | None = None) -> str | None:
        """Name what switches this process off: a variable, or the file of a person who said no before it began.

        Debug mode shows events all the same.
        """
        world = world or self.look()
        if world.debug or world.off_by is not None:
            return world.off_by
        return None if self._held is not None else self._admission.refused_by(world)

    def admit(self, world: World) -> Consent:
        """Give the consent to capture under, as `Admission.admit`; `load` comes first."""
        return self._admission.admit(world, self._first_event)

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
                # emitted, too: it makes classes, and a class made at the end of a process that Ctrl-C ends makes Python
                # forget that it has to end by the signal.
                from spool import spool  # noqa: F401, PLC0415 - at first use
                from spool.command import sightings as emitted  # noqa: F401, PLC0415 - at first use
                from spool.event import build as event  # noqa: PLC0415 - at first use
                from spool.launch import destination  # noqa: F401, PLC0415 - at first use
                from spool.queue.interrupts import signals_held  # noqa: PLC0415 - with them

                if self.paths is None or not os.path.exists(self.paths.queue):  # it never raises
                    # What makes a queue: else it would be loaded under the queue's lock.
                    from spool.queue import cache  # noqa: F401, PLC0415 - once in the life of an install
                    from spool.queue.recovery import building  # noqa: F401, PLC0415 - once in the life of an install

                self._event, self._held = event, signals_held
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
        properties: Mapping[str, Any] | TypedEvent | None,
        *,
        distinct_id: str | None = None,
        groups: Mapping[str, str] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Put an event together under an identity; InvalidEventError if it is none, or not in the catalogue."""
        assert self._event is not None  # noqa: S101 - `load` comes first
        message: dict[str, Any] = self._event.compose(
            event,
            self.check(event, properties),
            self._envelope(groups),
            distinct_id=distinct_id or identity.install_id or "unknown",
            timestamp=options.get("timestamp"),
            uuid=options.get("uuid"),
        )
        return message

    def _envelope(self, groups: Mapping[str, str] | None) -> dict[str, Any]:
        """Give the properties that every event has; made once for the events without groups, which most are."""
        assert self._event is not None  # noqa: S101 - as in `compose`
        if groups is None and self._common is not None:
            return self._common
        from spool.event.host_facts import host_facts  # noqa: PLC0415 - once, when something is captured

        facts = host_facts(self.options.version, os.environ)
        envelope = {**facts, **self._event.envelope(groups, **self.options.privacy)}
        if groups is None:
            self._common = envelope
        return envelope

    def check(self, event: str, properties: Mapping[str, Any] | TypedEvent | None) -> Mapping[str, Any] | None:
        """Hold an event against the host's catalogue, if there is one."""
        if self.options.catalogue is None:
            return properties  # type: ignore[return-value]  # `compose` refuses what is no mapping
        return self.options.catalogue.check(event, properties)

    def freeze(self, message: Mapping[str, Any]) -> Event:
        """Freeze an event within the limit of its size."""
        assert self._event is not None  # noqa: S101 - `load` comes first
        frozen: Event = self._event.freeze(message, self.options.limits.max_event_bytes)
        return frozen

    def record(
        self, world: World, compose: Callable[[Identity], Mapping[str, Any]], closes: str | None = None
    ) -> Receipt:
        """Put the event that `compose` makes for the identity on disk; call it with signals held.

        `closes` is the uuid of the command whose event it is. Raises InvalidEventError in strict mode.
        """
        try:
            admitted = self.admit(world)
            if not (world.debug or admitted.identity.enabled):
                return Receipt("disabled", reason=admitted.identity.decided_by)
            message = compose(admitted.identity)
            frozen = self.freeze(message)
            if world.debug or world.paths is None:
                return self._show(frozen)
            receipt = self._put(world.paths, admitted, frozen, closes)
            if receipt:
                self.emitted.add(message["event"])
            return receipt
        except InvalidEventError as error:
            self.lose(error)
            return Receipt("lost", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the host comes first: whatever it is, it is a receipt
            return Receipt("lost", reason=type(error).__name__)

    def lose(self, mistake: InvalidEventError) -> None:
        """Count an event that is none: a programming mistake, which raises in strict mode."""
        if self.strict:
            raise mistake
        world = self.look()
        if not world.debug and world.paths is not None:
            self.spool(world.paths).count_lost(mistake.cause)

    def _put(self, paths: Paths, admitted: Consent, frozen: Event, closes: str | None = None) -> Receipt:
        def guard() -> None:
            if signature(paths) != admitted.signature and not self.admit(self.look()).identity.enabled:
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
        from spool.consent.notice import say  # noqa: PLC0415 - for those who look

        say(f"[telemetry] {frozen.text}")
        return Receipt("debug", frozen.uuid, "telemetry is in debug mode: nothing is stored or sent")

    def leave_sighting(self, command: str, outcome: str, events: set[str]) -> None:
        """Write down which events a run captured, for the audit. Whatever keeps it from that is no matter."""
        if not events or (paths := self.paths) is None:
            return

        def allowed() -> bool:
            return self.silenced_by() is None and self.identity.enabled

        with suppress(Exception):  # the host comes first, and an audit does without one run
            from spool.command.sightings import Sighting, note  # noqa: PLC0415 - at the end of what captured something

            if allowed():
                names = self.options.catalogue.names() if self.options.catalogue is not None else ()
                seen = Sighting(self.options.version, names, command, outcome, frozenset(events))
                note(paths, seen, now_utc().date().isoformat(), allowed=allowed)

    # -- the spool --------------------------------------------------------------------------------------

    def spool(self, paths: Paths) -> Spool:
        """Give the spool of a home, made at its first use; a host may change its home between captures."""
        spool = self._spools.get(paths.home)
        if spool is None:
            from spool.launch.start import waits  # noqa: PLC0415 - only what captures needs it
            from spool.spool import Spool  # noqa: PLC0415 - sqlite3 and all, some 10 ms

            waited = waits(paths)
            spool = self._spools[paths.home] = Spool(paths, self.options.limits, self.options.durability)
            self._leave_destination(paths)
            spool.recover()
            if self.options.flush == "auto" and waited:
                self.launch(paths)
        return spool

    def _leave_destination(self, paths: Paths) -> None:
        """Tell a bare flusher where to deliver; again, when the folder was removed under us."""
        from spool.launch import destination  # noqa: PLC0415 - loaded already, by `load`

        destination.leave(paths, self.options.destination, self.options.limits)

    def launch(self, paths: Paths) -> None:
        """Start a flusher, detached, if one is due; reap what one before may have left."""
        from spool.launch import start as launch  # noqa: PLC0415 - for hosts that start one

        if self._child is not None:
            with suppress(ChildProcessError):
                if os.waitpid(self._child, os.WNOHANG) == (0, 0):
                    return
        reap_s = 0.0 if self.at_exit else launch.REAP_S
        self._child = launch.launch_if_due(self.options.app, paths, self.options.flush_interval_s, reap_s)

    def close(self) -> None:
        """Close the queues; at the end of a process that captured something a flush may be due."""
        emitted, self.emitted = self.emitted, set()
        self.leave_sighting("", "", emitted)
        for spool in self._spools.values():
            spool.close()
            if self.options.flush == "auto" and self.silenced_by() is None and self.identity.enabled:
                self.launch(spool.paths)

    def forget(self, home: Path) -> None:
        """Close the queue of a home that is about to go, and what is remembered of the world. For the guard kit."""
        spool = self._spools.pop(home, None)
        if spool is not None:
            spool.close()
        self._environment.forget(home)
        self._common = None
        self.emitted = set()


def now_utc() -> datetime:
    """The moment, as events have it."""
    return datetime.now(UTC)
