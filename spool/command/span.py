"""One `command` event on every way out of a command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from spool.consent import Identity, project_id
from spool.errors import InvalidEventError, SpoolError
from spool.exception.outcome import OUTCOMES, Outcome, cause_of, is_usage, outcome_of
from spool.first_use import load
from spool.guard import guarded
from spool.host import Host, Surroundings
from spool.interrupts import ENDS, note_handlers, raised_by_handler
from spool.settings import LONGEST_S

if TYPE_CHECKING:
    from spool.beside.spans import OpenSpan

__all__ = ["CommandSpan"]


def _uncounted(host: Host, error: Exception, *_rest: Any, **_options: Any) -> None:
    host.lost("command", error)


class CommandSpan:
    """A command under way. A context manager; `annotate` names its true outcome.

    From entry on the command is on disk. However it ends, exactly one event follows: at the end of the
    block, at `finish`, in the signal handler of `Telemetry.signals`, at the end of the process, or by the next
    flush.
    """

    def __init__(
        self,
        host: Host,
        path: Sequence[str] = (),
        flags: Mapping[str, object] | Sequence[str] = (),
        project: Path | str | None = None,
    ) -> None:
        self.path = [path] if isinstance(path, str) else [str(part) for part in path]
        self.flags: Mapping[str, object] = flags if isinstance(flags, Mapping) else dict.fromkeys(flags, True)
        self._host = host
        self._project = project
        self._group = ""
        self._pid = os.getpid()
        self._began: datetime | None = None
        self._started_s = time.monotonic()
        self._annotations: dict[str, str] = {}
        self._uuid: str | None = None  # as long as the command is under way
        self._file: OpenSpan | None = None
        self._begun_at = ""
        self._emitted_before: set[str] = set()
        # `spool.capture`, from the beginning on: it loads the queue, which a command that is opted out does without.
        self._steps: Any = None

    # -- the beginning --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._enter()
        return self

    @guarded(None, _uncounted)
    def _enter(self) -> None:
        if not self.path:
            self._host.mistake("a command has a path of at least one word")
            self.path = ["unknown"]
        if self._host.span is not None and self._host.span.is_open:
            self._host.mistake("a command is under way already: one process, one command at a time")
            return
        self._begun_at = _caller()
        self.begin()

    @guarded(None, _uncounted)
    def begin(self) -> None:
        """Put the command on disk in case it is killed. Raises in strict mode alone."""
        self._pid, self._started_s = os.getpid(), time.monotonic()
        self._host.declared.update(self.path)
        self._host.note_typed(_values(self.flags))
        note_handlers()
        now = self._host.look()
        if self._host.silenced_by(now) is not None:
            return
        self._began = datetime.now(UTC)
        self._steps = load()
        self._uuid = str(uuid4())
        self._host.span = self
        try:
            self._begin(now)
        except InvalidEventError as mistake:
            self._host.span = self._uuid = None
            self._steps.count_mistake(self._host, now, "command", mistake)
        except Exception:  # noqa: BLE001 - without its file a kill goes unseen; every other end is seen
            return

    def _begin(self, now: Surroundings) -> None:
        identity = self._steps.consented(self._host, now).identity
        if not (identity.enabled or now.debug):
            self._uuid = None
            return
        if self._project is not None:
            self._group = project_id(identity.install_id, self._project)
        self._emitted_before, self._host.emitted = self._host.emitted, set()
        self._write(now, self._draft(identity))

    def _draft(self, identity: Identity) -> dict[str, Any]:
        """Build the event as it is if the command is killed."""
        return dict(
            self._steps.build(
                self._host, identity, "command", self._fields(), timestamp=self._began, **self._identifiers()
            )
        )

    def _write(self, now: Surroundings, message: Mapping[str, Any]) -> None:
        """Write the span's file, in place of the one before if there is one."""
        if now.debug or now.paths is None:
            return
        before = self._file
        if before is not None and not before.holds():
            return
        home = self._steps.opened(self._host, now.paths)
        with suppress(SpoolError):  # without its file a kill goes unseen; every other end is seen
            self._file = home.open_span(message)
            if before is not None:
                before.forget()
            self.touch()
            if not self._host.identity.enabled:  # an opt-out meanwhile may not have seen the file
                self._file.end()

    def _fields(self) -> dict[str, Any]:
        """Give the event's own fields."""
        from spool.command.command_line import flags_present  # noqa: PLC0415 - for hosts that have commands

        return {
            "commandPath": self.path,
            "durationMs": 0,
            "outcome": "aborted",
            "flagsPresent": flags_present(self.flags),
            "hasProject": self._project is not None,
            "projectGroupAttached": bool(self._group),
        }

    # -- on the way -----------------------------------------------------------------------------------------

    @property
    def began(self) -> bool:
        """Whether the command was begun, also where telemetry is off."""
        return self._began is not None

    @property
    def is_open(self) -> bool:
        """Whether the command is under way in this process; a forked child leaves it to its parent."""
        return self._uuid is not None and self._pid == os.getpid()

    @guarded(None)
    def annotate(
        self,
        *,
        outcome: str | None = None,
        error_class: str | None = None,
        error_detail: str | None = None,
        project: Path | str | None = None,
    ) -> None:
        """Name the outcome of a command that ends without an exception (which still wins), or its project."""
        if outcome is not None and outcome not in OUTCOMES:
            self._host.mistake(f"a command's outcome is one of {', '.join(OUTCOMES)}, not {outcome!r}")
            outcome = None
        for name, value in (("outcome", outcome), ("errorClass", error_class), ("errorDetail", error_detail)):
            if value is not None:
                self._annotations[name] = str(value)
        if project is not None and self.is_open:
            self._project, self._group = project, project_id(self._host.identity.install_id, project)

    def name(self, path: Sequence[str], flags: Mapping[str, object]) -> None:
        """Say what the command is, where that was not known at its beginning."""
        self.path, self.flags = list(path), dict(flags)
        self._host.declared.update(self.path)

    @guarded(None)
    def describe(self, path: Sequence[str], flags: Mapping[str, object]) -> None:
        """Name the command, also on disk, in case of a kill."""
        known = (self.path, dict(self.flags))
        self.name(path, flags)
        if not self.is_open or known == (self.path, self.flags):
            return
        now = self._host.look()
        self._write(now, self._draft(self._steps.consented(self._host, now).identity))

    def touch(self) -> None:
        """Record that the command is alive."""
        if self._file is not None:
            self._file.touch(self._lasted_s())

    def _lasted_s(self) -> float:
        """Give the seconds since the command began; 0 where the clock was exchanged meanwhile, as by freezegun."""
        lasted_s = time.monotonic() - self._started_s
        return lasted_s if 0 <= lasted_s < LONGEST_S else 0.0

    # -- the end --------------------------------------------------------------------------------------------

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.end(error)

    @guarded(None, _uncounted, ending=True)
    def end(self, error: BaseException | None) -> None:
        """End the command by the exception that left it, which is never hidden; without one, raises as `finish`."""
        try:
            self._close(error)
        except InvalidEventError:
            if error is None:
                raise
        finally:
            if self._host.span is self:
                self._host.span = None

    @guarded(None, ending=True)
    def finish(self, outcome: str | None = None) -> None:
        """End the command here and count it as it was annotated; what happens later is not recorded.

        For steps that a process does not return from: call it before `os.exec*`, before `os._exit`, and before a fork
        whose parent exits (a daemon). Raises InvalidEventError in strict mode, if the event does not match the
        catalogue.
        """
        self.annotate(outcome=outcome)
        self.end(None)

    @guarded(None, _uncounted, ending=True)
    def abort(self) -> None:
        """End the command as aborted: by a signal, or because nobody ended it."""
        with suppress(InvalidEventError):
            self._close(None, aborted=True)

    def left_open(self) -> None:
        """End a command that nobody ended, at the end of the process; in strict mode, say which one it was."""
        if self.is_open:
            self.abort()
            self._host.mistake(f"the command begun at {self._begun_at} was never ended: use `with`")

    @guarded(None, ending=True)
    def drop(self) -> None:
        """Discard the command as if it had never begun: it turned out to be none."""
        if self.is_open:
            self._uuid = None
            self._host.emitted |= self._emitted_before
            self._let_go()

    def _close(self, error: BaseException | None, *, aborted: bool = False) -> None:
        """Put the command's event on disk and remove its file; once, whoever comes first."""
        if not self.is_open:
            return
        identifiers = self._identifiers()
        self._uuid = None
        try:
            duration_ms = round(self._lasted_s() * 1000, 3)
            ending = {"outcome": "aborted"} if aborted else self._told(error)
            fields = {**self._fields(), "durationMs": duration_ms, **ending}
            if self._file is None or self._file.holds():  # else it was taken for killed, and has an event
                now = self._host.look()
                self._steps.capture(self._host, now, "command", fields, closes=identifiers["uuid"], **identifiers)
        finally:
            self._let_go()
        emitted, self._host.emitted = self._host.emitted, self._emitted_before
        self._host.leave_sighting(" ".join(self.path), fields["outcome"], emitted)

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.end()
            self._file = None  # here, where signals are held: its lock is in a WeakSet, which runs code of its own

    def _identifiers(self) -> dict[str, Any]:
        return {"uuid": self._uuid, "groups": {"project": self._group}}

    def _told(self, error: BaseException | None) -> dict[str, Any]:
        try:
            return self._ending(error)
        except Exception:  # noqa: BLE001 - an error of the host's of which not even the name can be read
            return {"outcome": "error"}

    def _ending(self, error: BaseException | None) -> dict[str, Any]:
        """Say how it ended: by an exception, else as annotated, else well."""
        raised = () if error is None else (error, cause_of(error))
        interrupted = any(one is not None and raised_by_handler(one, ENDS) for one in raised)
        outcome, cause = Outcome("aborted") if interrupted else outcome_of(error)
        fields: dict[str, Any] = {"outcome": outcome}
        if outcome == "ok":
            fields |= self._annotations
        elif outcome == "error" and cause is None and self._annotations.get("outcome", "ok") != "ok":
            fields |= self._annotations  # the command itself knows more than its exit code
        if cause is not None:
            from spool.exception.redaction import error_class  # noqa: PLC0415 - only when something went wrong

            if (name := error_class(cause)) is not None:
                fields["errorClass"] = name
            if not is_usage(cause):
                fields["errorDetail"] = _text(cause)
        detail = fields.pop("errorDetail", "")
        return {**fields, "errorDetail": self._host.redacted(detail)} if detail else fields


def _values(flags: Mapping[str, object]) -> Iterator[object]:
    """Give what the flags were given as: they may have been typed elsewhere than on the command line."""
    for value in flags.values():
        yield from value if isinstance(value, list | tuple | set | frozenset) else [value]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a __str__ of the host's that fails, or exits, says nothing
        return ""


def _caller() -> str:
    """Give the file and line of the host's own code: the first frame outside this package."""
    package, frame = os.path.dirname(os.path.dirname(__file__)) + os.sep, sys._getframe(1)  # noqa: SLF001 - the inspect module is slow to load
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
