"""One `command` event on every way out of a command."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from spool.errors import SpoolError

if TYPE_CHECKING:
    from spool.span import OpenSpan
    from spool.telemetry import Telemetry

__all__ = ["OUTCOMES", "CommandSpan", "outcome_of"]

OUTCOMES = ("ok", "error", "aborted")


def outcome_of(error: BaseException | None) -> tuple[str, BaseException | None]:
    """Tell a command's outcome from what left it, and the error to name, if there is one.

    `sys.exit(0)`, `typer.Exit()` and a plain return are ok. Ctrl-C, an abort of click or typer and a
    cancelled task are aborted. Everything else is an error. When click or typer has turned an exception
    into an exit already, that exception counts.
    """
    if error is None:
        return "ok", None
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        cause = error.__context__
        if isinstance(cause, KeyboardInterrupt) or (cause is not None and _is_clicks(cause)):
            return outcome_of(cause)
        return ("ok", None) if error.code in (None, 0) else ("error", None)
    if isinstance(error, KeyboardInterrupt) or kind in ("Abort", "CancelledError"):
        return "aborted", None
    if kind == "Exit" and isinstance(code := getattr(error, "exit_code", None), int):
        return ("ok", None) if code == 0 else ("error", None)
    return "error", error


def _is_clicks(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("click", "typer")


class CommandSpan:
    """A command under way. A context manager; `annotate` names its true outcome.

    From entry on the command is on disk. However it ends, exactly one event follows: at the end of the
    block, in the signal handler of `Telemetry.signals`, at the end of the process, or by the next flush.
    """

    def __init__(
        self, telemetry: Telemetry, path: Sequence[str], flags: Mapping[str, object], project: Path | str | None
    ) -> None:
        self._telemetry = telemetry
        self._path = [path] if isinstance(path, str) else [str(part) for part in path]
        self._flags = flags if isinstance(flags, Mapping) else dict.fromkeys(flags, True)
        self._project = project
        self._pid = os.getpid()
        self._started_s = time.monotonic()
        self._annotations: dict[str, str] = {}
        self._file: OpenSpan | None = None
        self._message: dict[str, Any] | None = None
        self._emitted_before: set[str] = set()
        self._nested = False

    def __enter__(self) -> Self:
        recorder = self._telemetry.recorder
        if not self._path:
            self._telemetry.mistake("a command has a path of at least one word")
            self._path = ["unknown"]
        if self._telemetry.span is not None:
            self._nested = True
            self._telemetry.mistake("a command is under way already: one process, one command at a time")
            return self
        self._started_s = time.monotonic()
        if recorder.silenced_by() is None and recorder.load():
            with recorder.held(), suppress(Exception):  # the command comes first, whatever becomes of its span
                self._telemetry.span = self
                self._begin()
        return self

    def _begin(self) -> None:
        recorder = self._telemetry.recorder
        from spool.redaction import flags_present  # noqa: PLC0415 - for hosts that have commands
        from spool.span import OpenSpan  # noqa: PLC0415 - with it

        paths = recorder.paths
        admitted = recorder.admit(paths)
        if not (admitted.identity.enabled or recorder.debug):
            return
        group = self._telemetry.project_id(self._project) if self._project is not None else ""
        fields = {
            "commandPath": self._path,
            "durationMs": 0,
            "outcome": "aborted",
            "flagsPresent": flags_present(self._flags),
            "hasProject": self._project is not None,
            "projectGroupAttached": bool(group),
        }
        message = recorder.compose(admitted.identity, "command", fields, groups={"project": group})
        self._message = message
        self._emitted_before, recorder.emitted = recorder.emitted, set()
        if not recorder.debug and paths is not None:
            recorder.spool(paths)
            with suppress(SpoolError):  # without its file a kill is not seen; every other end is
                durable = recorder.options.durability == "power"
                self._file = OpenSpan(paths, message["uuid"], message, durable=durable)

    def annotate(
        self, *, outcome: str | None = None, error_class: str | None = None, error_detail: str | None = None
    ) -> None:
        """Name the outcome of a command that ends without an exception; an exception still wins."""
        if outcome is not None and outcome not in OUTCOMES:
            self._telemetry.mistake(f"a command's outcome is one of {', '.join(OUTCOMES)}, not {outcome!r}")
            return
        for name, value in (("outcome", outcome), ("errorClass", error_class), ("errorDetail", error_detail)):
            if value is not None:
                self._annotations[name] = str(value)

    def touch(self) -> None:
        """Leave word that the command lives."""
        if self._file is not None:
            self._file.touch()

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        if not self._nested:
            self.finish(error)
            if self._telemetry.span is self:
                self._telemetry.span = None

    def finish(self, error: BaseException | None = None, *, outcome: str | None = None) -> None:
        """Put the command's event on disk and remove its file; once, whoever comes first.

        A forked child leaves the command to its parent. Raises InvalidEventError in strict mode, if the
        event is not what the catalogue says.
        """
        if self._message is None or self._pid != os.getpid():
            return
        with self._telemetry.recorder.held():  # a signal between the steps would leave the event out
            message, self._message = self._message, None
            if message is None:
                return
            try:
                ending = {"outcome": outcome} if outcome else self._ending(error)
                self._end(message, ending)
            finally:
                if self._file is not None:
                    self._file.end()
            self._leave_sighting(ending["outcome"])

    def _end(self, message: dict[str, Any], ending: dict[str, Any]) -> None:
        from spool.event import rfc3339  # noqa: PLC0415 - loaded at the beginning
        from spool.recorder import now_utc  # noqa: PLC0415 - with it

        message["properties"] |= {"durationMs": round((time.monotonic() - self._started_s) * 1000, 3), **ending}
        message["timestamp"] = rfc3339(now_utc())
        recorder = self._telemetry.recorder
        recorder.record(lambda identity: {**message, "distinct_id": identity.install_id or "unknown"}, message["uuid"])

    def _leave_sighting(self, outcome: str) -> None:
        recorder = self._telemetry.recorder
        emitted, recorder.emitted = recorder.emitted, self._emitted_before
        recorder.leave_sighting(" ".join(self._path), outcome, emitted)

    def _ending(self, error: BaseException | None) -> dict[str, Any]:
        """Say how it ended: by an exception, else as annotated, else well."""
        outcome, cause = outcome_of(error)
        fields: dict[str, Any] = {"outcome": outcome}
        if outcome == "ok":
            fields |= self._annotations
        elif outcome == "error" and cause is None and self._annotations.get("outcome", "ok") != "ok":
            fields |= self._annotations  # an exit code says less than the command itself
        if cause is not None:
            from spool.redaction import error_class  # noqa: PLC0415 - only when something went wrong

            if (name := error_class(cause)) is not None:
                fields["errorClass"] = name
            if not _is_usage(cause):
                fields["errorDetail"] = _text(cause)
        if fields.get("errorDetail"):
            from spool.redaction import redact, whereabouts  # noqa: PLC0415 - only when there is a text

            home, user = whereabouts(os.environ)
            fields["errorDetail"] = redact(fields["errorDetail"], home=home, user=user)
        else:
            fields.pop("errorDetail", None)
        return fields


def _is_usage(error: BaseException) -> bool:
    """Tell click's usage errors: their text holds what the person typed."""
    return any(kind.__name__ == "UsageError" for kind in type(error).__mro__)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a __str__ of the host's that fails, or exits, says nothing
        return ""
