"""The host as this process knows it: what its author chose, what the environment says, what is open for it."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from spool.beside import LossNotes
from spool.consent import Consent, ConsentCache, Identity, consent, opted_out_by
from spool.consent.opt_out import is_wiped
from spool.errors import InvalidEventError, SpoolError
from spool.home import Paths, Signature, home_under_test, resolve_home
from spool.settings import Durability, FlushMode, Limits, env_prefix, is_set

if TYPE_CHECKING:
    from spool.catalogue import Catalogue
    from spool.open_home import OpenHome

__all__ = ["MACHINE", "Host", "Options", "Receipt", "Surroundings", "UnderWay", "living"]

# The shell that starts a flusher is through in 2 ms; on a machine that is busier than that it is reaped later.
_REAP_S = 0.02
# A pattern of the shell may name ten thousand files; a host that runs for months may begin any number of commands.
_MOST_TYPED = 10_000
# What is the machine's fault, and never the program's.
MACHINE = (OSError, MemoryError, RecursionError, ImportError)


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
    catalogue: Catalogue | None
    flush: FlushMode
    flush_interval_s: float
    packages: frozenset[str]


class Surroundings(NamedTuple):
    """What the environment says at one moment; a capture looks once.

    `paths` are the files of the home, None where no home can be named. With `debug` events are shown and neither
    stored nor sent. `off_by` is the variable that switches this process off; debug mode shows events all the same.
    """

    paths: Paths | None
    debug: bool
    off_by: str | None


class UnderWay(Protocol):
    """A command under way, as far as its host has to know of it."""

    @property
    def is_open(self) -> bool:
        """Whether it is under way in this process."""

    def touch(self) -> None:
        """Leave word that the command lives."""

    def abort(self) -> None:
        """End it as aborted."""

    def left_open(self) -> None:
        """End it, since nobody else did."""


class Host:
    """One Telemetry's state. Its construction touches no file; what it has open is opened by the first capture."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.prefix = env_prefix(options.app)
        self.consent = ConsentCache(options.app)
        # The homes that events were put into; a host may change its home between captures.
        self.homes: dict[Path, OpenHome] = {}
        # What every event without groups carries, once one was built.
        self.envelope: dict[str, Any] | None = None
        # The command that is under way in this process, if one is.
        self.span: UnderWay | None = None
        # The names of the events that are on disk since the command began, or the process: for the audit.
        self.emitted: set[str] = set()
        # What the person typed, from the first moment on: a host may take words out of `sys.argv`, or replace it. And
        # what of it is the program's own.
        self.typed: dict[str, None] = {}
        self.declared: set[str] = {options.app}
        self.secrets: set[str] = set()
        # The opt-out that this process carried out, or tried to.
        self.wiped_for: Signature | None = None
        # The losses of each home that are in no account yet.
        self.loss_notes: dict[Path, LossNotes] = {}
        # What failed where not even a loss could be counted: no stack or memory was left. Counted with the next loss.
        self.unexplained = 0
        # The process is at its end: nobody waits for a child of its any more.
        self.at_exit = False
        self._homes: dict[tuple[str | None, ...], Paths] = {}
        _ = self.paths  # a relative home is one below the working folder of now, wherever the host goes later
        self.note_typed()
        living.add(self)

    # -- the environment --------------------------------------------------------------------------------

    def look(self) -> Surroundings:
        """Read the environment, once for what is done next: a host may change it between captures."""
        debug = is_set(os.environ.get(self.prefix + "TELEMETRY_DEBUG"))
        return Surroundings(self.paths, debug, None if debug else opted_out_by(self.options.app, os.environ))

    @property
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        tests = home_under_test(os.environ)
        named = (tests, *map(os.environ.get, (self.prefix + "HOME", "HOME")))
        known = self._homes.get(named)
        if known is None:
            home = resolve_home(self.options.app, None if tests else self.options.home, os.environ)
            if home is None:
                return None
            known = self._homes[named] = Paths(home)
        return known

    @property
    def strict(self) -> bool:
        """Whether programming mistakes raise."""
        return is_set(os.environ.get(self.prefix + "TELEMETRY_STRICT")) or bool(home_under_test(os.environ))

    def mistake(self, what: str) -> None:
        """Say a programming mistake: InvalidEventError in strict mode; in production the command goes on."""
        if self.strict:
            raise InvalidEventError(what)

    # -- losses -----------------------------------------------------------------------------------------

    def raises(self, error: Exception) -> bool:
        """Tell whether an error is for the author to see: strict mode, and it is no fault of the machine."""
        foreseen = isinstance(error, SpoolError) and not isinstance(error, InvalidEventError)
        return not (foreseen or isinstance(error, MACHINE)) and self.strict

    def lost(self, event: object, error: Exception, count: Callable[[str], None] | None = None) -> Receipt:
        """Count one event as lost, and keep the reason; nothing of it where telemetry is off.

        By `count`, or by a note, which needs neither queue nor lock; as soon as one can be written. The count comes
        last: where this raises, nothing was counted.
        """
        cause, reason = cause_of(error), str(error)
        if not isinstance(error, SpoolError):
            reason = f"{type(error).__name__}: {reason}"
        now = self.look()
        if now.debug:
            from spool.consent.first_run import say  # noqa: PLC0415 - only when something was lost

            say(f"[telemetry] lost: {event}: {reason}")
        receipt = Receipt("lost", reason=reason)
        if not now.debug and now.paths is not None and self.silenced_by(now) is None:
            self._keep_reason(now.paths, event, cause, reason)
            (count or self.losses_of(now.paths).add)(cause)
        return receipt

    def _keep_reason(self, paths: Paths, event: object, cause: str, reason: str) -> None:
        with suppress(Exception):  # the loss is counted, whatever becomes of its reason
            from spool.beside.loss_reasons import note, reason_of  # noqa: PLC0415 - only when something was lost

            note(self.options.app, paths, [reason_of(event, cause, reason)])

    def losses_of(self, paths: Paths) -> LossNotes:
        """Give the losses of a home that are in no account yet."""
        return self.loss_notes.setdefault(paths.home, LossNotes(paths))

    def note_unexplained(self, paths: Paths) -> None:
        """Count what failed while nothing could be counted."""
        while self.unexplained > 0:
            self.losses_of(paths).add("internal")
            self.unexplained -= 1

    # -- consent ----------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who this install is, whether it is counted now, and by which rule. Reads the file each time."""
        return consent(self.options.app, self.paths, os.environ).identity

    def silenced_by(self, now: Surroundings) -> str | None:
        """Name the rule that switches this process off, without loading or writing anything.

        None also says that a capture has to ask: because something is open already, or because an opt-out still has
        to be carried out. Debug mode shows events all the same.
        """
        if now.debug or now.off_by is not None:
            return now.off_by
        if self.homes:
            return None
        found = self.consent.ask(now.paths, os.environ, now.off_by)
        if found.identity.enabled or (now.paths is not None and found.refused and not _carried_out(now.paths, found)):
            return None
        return found.identity.decided_by

    # -- what the person typed, and what is hidden ----------------------------------------------------------

    def typed_words(self) -> frozenset[str]:
        """Give the words that the person typed, without those that the program declares."""
        from spool.exception.redaction import program_words, typed_words  # noqa: PLC0415 - only when something went wrong

        self.note_typed()
        started_by = getattr(sys, "orig_argv", ())
        words = started_by[1:] if getattr(sys, "frozen", False) else program_words(started_by)
        return typed_words([*words, *self.typed], self.declared)

    def note_typed(self, more: Iterable[object] = ()) -> None:
        """Remember the command line and the app's variables as they are now, and what else was typed; not too many."""
        present = getattr(sys, "argv", None)  # an embedded interpreter may have none
        words = present[1:] if isinstance(present, list | tuple) else ()
        for word in (*words, *(value for name, value in os.environ.items() if name.startswith(self.prefix)), *more):
            if isinstance(word, str | os.PathLike):
                self.typed.setdefault(str(word), None)
        for word in list(self.typed)[: max(0, len(self.typed) - _MOST_TYPED)]:
            self.typed.pop(word, None)

    def redacted(self, text: str) -> str:
        """Give an error's text as it may be told: without what is hidden, and without what the person typed."""
        from spool.exception.redaction import redact, whereabouts  # noqa: PLC0415 - only when something went wrong

        person = whereabouts(os.environ)._asdict()
        return redact(text, secrets=self.secrets, typed=self.typed_words(), **person)

    def hide(self, secrets: Iterable[str]) -> None:
        """Keep these texts out of all that is told of errors from now on."""
        self.secrets |= {secret for secret in secrets if secret}

    def is_own(self, module: str) -> bool:
        """Tell whether a module belongs to the host's own packages."""
        return module.partition(".")[0] in self.options.packages

    # -- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """End an open command, and close what is open; where something was captured, a flush may be due."""
        try:
            if self.span is not None:
                self.span.left_open()
        finally:
            emitted, self.emitted = self.emitted, set()
            self.leave_sighting("", "", emitted)
            now = self.look()
            if now.paths is not None and self.silenced_by(now) is None:
                self.note_unexplained(now.paths)
            for notes in list(self.loss_notes.values()):
                notes.retry()
            for opened in list(self.homes.values()):
                opened.close()
                if self.silenced_by(self.look()) is None and self.identity.enabled:
                    self.launch(opened)

    def disconnect(self) -> None:
        """Close the queues. What comes after opens them again."""
        for opened in list(self.homes.values()):
            opened.disconnect()

    def launch(self, opened: OpenHome) -> None:
        """Start a flusher if one is due, and the author left that to us."""
        if self.options.flush == "auto":
            opened.launch(self.options.app, self.options.flush_interval_s, 0.0 if self.at_exit else _REAP_S)

    def leave_sighting(self, command: str, outcome: str, events: set[str]) -> None:
        """Write down which events a run captured, for the audit. Whatever keeps it from that is no matter."""
        now = self.look()
        if not events or now.paths is None or now.debug or now.off_by is not None:
            return
        with suppress(Exception):  # the host comes first, and an audit does without one run
            from spool.beside.sightings import Sighting, note  # noqa: PLC0415 - at the end of what captured something

            names = self.options.catalogue.names() if self.options.catalogue is not None else ()
            seen = Sighting(self.options.version, names, command, outcome, frozenset(events))
            note(self.options.app, now.paths, seen, datetime.now(UTC).date().isoformat())

    def forget(self, home: Path) -> None:
        """Close a home that is about to go, and what is remembered of the environment. For the guard kit."""
        self.loss_notes.pop(home, None)
        opened = self.homes.pop(home, None)
        if opened is not None:
            opened.close()
        self._homes = {named: paths for named, paths in self._homes.items() if paths.home != home}
        self.envelope = None
        self.emitted = set()


def cause_of(error: Exception) -> str:
    """Name the loss by an error."""
    if isinstance(error, SpoolError):
        return error.cause
    if isinstance(error, MemoryError | RecursionError):
        return "memory"
    if isinstance(error, ImportError):
        return "import"
    return "unavailable" if isinstance(error, OSError) else "internal"


def _carried_out(paths: Paths, found: Consent) -> bool:
    with suppress(OSError):
        return is_wiped(paths, found.signature)
    return False


# Every Host of this process, for the guard kit: one that a module holds goes from test to test.
living: weakref.WeakSet[Host] = weakref.WeakSet()
