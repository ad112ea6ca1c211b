"""Telemetry: the one object that a host holds."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from spool.consent import Identity, project_id
from spool.first_use import load
from spool.guard import NoCommand, guarded
from spool.home import Paths
from spool.host import Host, Options, Receipt
from spool.interrupts import at_exit, raised_by_handler, to_the_end
from spool.settings import DEFAULT_HOST, MARK, Durability, FlushMode, Limits, stripped

if TYPE_CHECKING:
    from uuid import UUID

    from spool.catalogue import Catalogue
    from spool.catalogue import Event as TypedEvent
    from spool.command.span import CommandSpan

__all__ = ["Telemetry"]

_LOST = Receipt("lost", reason="no memory or stack is left")
_NO_IDENTITY = Identity(None, enabled=False, decided_by="home not usable")


_NO_COMMAND = cast("CommandSpan", NoCommand())


def _lost(host: Host, error: Exception, event: object = "unknown", *_rest: Any, **_options: Any) -> Receipt:
    return host.lost(event, error)


def _lost_report(host: Host, error: Exception, *_rest: Any, **_options: Any) -> Receipt:
    return host.lost("$exception", error)


def _lost_command(host: Host, error: Exception, *_rest: Any, **_options: Any) -> CommandSpan:
    host.lost("command", error)
    return _NO_COMMAND


class Telemetry:
    """Spools a host's events. One for each process and app; threads may share it.

    Construction touches no file. The first capture opens the queue; `close` (or the end of the process)
    closes it. With a `project_key` of None events wait until a key is known. `geoip_disable` (the default, as in
    posthog-python) keeps PostHog from looking up where the sender's address is; `person_profiles` False keeps
    it from making a person profile, which groups need. With `flush` "auto" a detached flusher is started at the
    next start and at the end of the process, but not within `flush_interval_s` of a successful one; "never" leaves
    it to cron or a person. `packages` names the host's own packages, where they differ from the app's name: error
    reports mark their frames as the host's own.

    No method raises for what the machine does: it gives an empty answer instead (`spool/guard.py`).

    Raises ValueError for an app that is no plain name, a personal key (`phx_`) and an unknown `durability`
    or `flush`: mistakes that the author sees at the first run.
    """

    def __init__(  # noqa: PLR0913 - the options of the contract, each by name
        self,
        app: str,
        version: str,
        project_key: str | None = None,
        host: str = DEFAULT_HOST,
        home: Path | str | None = None,
        catalogue: Catalogue | None = None,
        limits: Limits | None = None,
        durability: Durability = "process",
        flush: FlushMode = "auto",
        *,
        geoip_disable: bool = True,
        person_profiles: bool = True,
        flush_interval_s: float = 300.0,
        packages: Iterable[str] = (),
    ) -> None:
        if os.environ.get(MARK):
            from spool.launch.mark import become_flusher  # noqa: PLC0415 - in a frozen app, started to deliver

            become_flusher()
        project_key, host = stripped(project_key), stripped(host) or DEFAULT_HOST
        if project_key is not None and project_key.startswith("phx_"):
            raise ValueError("project_key is a personal key (phx_): use the project's own (phc_), it can only capture")
        if durability not in ("process", "power") or flush not in ("auto", "never"):
            raise ValueError('durability is "process" or "power", flush is "auto" or "never"')
        destination: dict[str, str | None] = {"host": host, "project_key": project_key}
        if catalogue is not None and catalogue.name is not None:
            destination["catalogue"] = catalogue.name
        self._host = Host(
            Options(
                app=app,
                version=version,
                destination=destination,
                home=home,
                limits=limits or Limits(),
                durability=durability,
                privacy={"geoip_disable": geoip_disable, "person_profiles": person_profiles},
                catalogue=catalogue,
                flush=flush,
                flush_interval_s=flush_interval_s,
                packages=frozenset([app.replace("-", "_"), *_listed(packages)]),
            )
        )
        atexit.register(_close_at_exit, weakref.ref(self._host))
        _disconnect_with(self, self._host)

    @property
    def app(self) -> str:
        """The name that the home and the variables are derived from."""
        return self._host.options.app

    @property
    @guarded(None)
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        return self._host.paths

    @property
    @guarded(_NO_IDENTITY)
    def identity(self) -> Identity:
        """Who this install is, whether it is counted now, and by which rule. Reads the file each time."""
        return self._host.identity

    @guarded("")
    def project_id(self, project_dir: Path | str) -> str:
        """Give the id of a project on this install: 64 hexadecimal digits that reveal neither.

        sha256 of `{install_id}:{resolved dir}`. Empty where there is no install id, as when telemetry is off
        before the first run: `capture` leaves such a group out.
        """
        now = self._host.look()
        on = self._host.silenced_by(now) is None
        identity = load().consented(self._host, now).identity if on else self._host.identity
        return project_id(identity.install_id, project_dir)

    @guarded(_LOST, _lost)
    def capture(  # noqa: PLR0913 - after posthog-python's capture
        self,
        event: str,
        properties: Mapping[str, Any] | TypedEvent | None = None,
        *,
        distinct_id: str | None = None,
        groups: Mapping[str, str] | None = None,
        timestamp: datetime | None = None,
        uuid: str | UUID | None = None,
    ) -> Receipt:
        """Put an event on disk; with a true receipt it survives kill -9 of any process.

        Under a catalogue `properties` may be an instance of the event's class.
        Never raises for what the machine does, never waits longer than `limits.lock_wait_s` for a lock,
        never touches stdout or the network. A programming mistake is counted as lost and said in the
        receipt; with `<APP>_TELEMETRY_STRICT=1` it raises InvalidEventError.
        """
        now = self._host.look()
        off_by = self._host.silenced_by(now)
        if off_by is not None:
            return Receipt("disabled", reason=off_by)
        receipt: Receipt = load().capture(
            self._host,
            now,
            event,
            properties,
            distinct_id=distinct_id,
            groups=groups,
            timestamp=timestamp,
            uuid=uuid,
        )
        return receipt

    @guarded(_LOST, _lost_report)
    def capture_exception(
        self,
        error: BaseException,
        *,
        handled: bool = True,
        secrets: Iterable[str] = (),
        groups: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Put an exception on disk as PostHog's `$exception`, with its chain and frames, redacted.

        `secrets` are texts that must not appear in it, beside what redaction knows by itself. An error that
        was marked as expected, or was reported before by another layer, gives "disabled" with the reason. Otherwise
        as `capture`.
        """
        off_by = self._host.silenced_by(self._host.look())
        if off_by is not None:
            return Receipt("disabled", reason=off_by)
        from spool.exception.report import exception_properties, first_time, forget, is_expected  # noqa: PLC0415 - when needed

        if is_expected(error):
            return Receipt("disabled", reason="an expected error")
        if not first_time(error):
            return Receipt("disabled", reason="reported already")
        receipt = Receipt("lost")
        try:
            properties = exception_properties(
                error, handled=handled, secrets=chain(self._host.secrets, _listed(secrets)),
                typed=self._host.typed_words(), in_app=self._host.is_own,
            )  # fmt: skip
            receipt = self.capture("$exception", properties, groups=groups)
        finally:
            if receipt.state in ("lost", "disabled"):
                forget(error)  # another layer may succeed
        return receipt

    @guarded(None)
    def hide(self, *secrets: str) -> None:
        """Keep these texts (such as a password that was read from a file) out of every error report from now on."""
        self._host.hide(secrets)

    @guarded("")
    def redacted(self, text: str) -> str:
        """Give an error's text without what is hidden, and without what the person typed."""
        return self._host.redacted(text)

    @guarded(_NO_COMMAND, _lost_command)
    def command(
        self, path: Sequence[str], flags: Mapping[str, object] | None = None, *, project: Path | str | None = None
    ) -> CommandSpan:
        """Give a context manager for one command: exactly one `command` event, on every way out.

        Also after kill -9: the command is on disk from its beginning, and the next flush or the next start finds
        it dead. `flags` is what was given on the command line, by name; no value is kept, only whether one was
        given. `project` is the project's folder: its id becomes the group.
        """
        from spool.command.span import CommandSpan  # noqa: PLC0415 - for hosts that have commands

        return CommandSpan(self._host, path, flags or {}, project)

    @property
    @guarded(_NO_COMMAND)
    def span(self) -> CommandSpan:
        """The command under way, to annotate it or to finish it early; where there is none, one that makes no event."""
        from spool.command.span import CommandSpan  # noqa: PLC0415 - for hosts that have commands

        return self._host.span if isinstance(self._host.span, CommandSpan) else CommandSpan(self._host)

    @guarded(nullcontext())
    def signals(self) -> AbstractContextManager[None]:
        """Handle SIGINT, SIGTERM and SIGHUP for the block, in a process entry without Typer or Click.

        A signal that ends the process first ends its command, which is put on disk as aborted. The host's own
        handlers are called as without this, and Ctrl-C stays Python's own.
        """
        from spool.command.signals import handled  # noqa: PLC0415 - for process entries only

        return handled(self._host)

    def main(self, app: Any, args: Sequence[str] | None = None) -> NoReturn:
        """Run a Typer or Click app as this process's entry: span, signal handling, exit code.

        Ends the process as the app would have ended it. Raises TypeError for any other object. The app's commands
        reach their event through `span`.
        """
        try:
            from spool.command.click_app import run  # noqa: PLC0415 - for process entries only
            from spool.command.own_calls import hide_own_calls  # noqa: PLC0415 - likewise
        except Exception as error:  # noqa: BLE001 - the app runs all the same
            self._uncounted(error)
            sys.exit(app() if args is None else app(args=list(args)))
        try:
            run(self._host, app, args)
        except BaseException as error:
            hide_own_calls(error)
            raise

    @guarded(None)
    def _uncounted(self, error: Exception) -> None:
        self._host.lost("command", error)

    def flush(self, timeout_s: float = 1.5) -> bool:
        """Run the flusher in a child process and wait at most `timeout_s`. True if the spool is drained.

        For machines that won't start again (a container). A child that takes longer keeps running.
        """
        try:
            paths = self._to_flush()
            if paths is None:
                return False
            if not os.path.isdir(paths.spool):
                return True  # nothing was ever captured
            from spool.launch import start  # noqa: PLC0415 - for hosts that wait

            timeout_s = start.bounded(timeout_s)
            child = start.run(self.app, paths, timeout_s)
        except (MemoryError, RecursionError):
            return False
        except Exception as error:
            if raised_by_handler(error):  # no signal is held here: a person may press Ctrl-C
                raise
            return False
        return start.has_drained(child, timeout_s)

    @guarded(None)
    def _to_flush(self) -> Paths | None:
        now = self._host.look()
        return None if now.debug or self._host.silenced_by(now) is not None else now.paths

    @guarded(None, ending=True)
    def close(self) -> None:
        """End an open command and close the queue. Captures after this open it again."""
        self._host.close()


def _listed(texts: Iterable[str]) -> Iterable[str]:
    """Give the texts of an argument; a single text counts as one, not as its characters."""
    return (texts,) if isinstance(texts, str | bytes) else texts


class _End:
    """The end of the process, for a host that is still there."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @guarded(None)
    def close(self) -> None:
        """Do what a host that knows its end does itself."""
        self._host.at_exit = True
        self._host.close()


def _close_at_exit(reference: weakref.ref[Host]) -> None:
    def close() -> None:
        host = reference()
        if host is not None:
            _End(host).close()

    at_exit(lambda: to_the_end(close))


# As `weakref.finalize` does it, which would leave an exit hook that Ctrl-C can hit.
_watched: set[weakref.ref[Telemetry]] = set()


def _disconnect_with(telemetry: Telemetry, host: Host) -> None:
    """Leave no connection open when a Telemetry is garbage-collected: one has to be closed under the lock."""

    def gone(reference: weakref.ref[Telemetry]) -> None:
        _watched.discard(reference)
        host.disconnect()

    _watched.add(weakref.ref(telemetry, gone))
