"""Telemetry: the one object that a host holds."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from spool.consent.identity import Identity
from spool.errors import InvalidEventError
from spool.home.paths import Paths
from spool.recorder import Options, Receipt, Recorder
from spool.settings import DEFAULT_HOST, Durability, FlushMode, Limits

if TYPE_CHECKING:
    from uuid import UUID

    from spool.catalogue import Catalogue
    from spool.catalogue import Event as TypedEvent
    from spool.command.span import CommandSpan

__all__ = ["Telemetry", "living"]


class Telemetry:
    """Spools a host's events. One for each process and app; threads may share it.

    Construction touches no file. The first capture opens the queue; `close` (or the end of the process)
    closes it. `project_key` None keeps the events until a key is known. `geoip_disable` (as in
    posthog-python, by default) keeps PostHog from looking up where the sender's address is;
    `person_profiles` False keeps it from making a person profile, which groups need. With `flush` "auto"
    a flusher is started, detached, at the next start and at the end of the process, not sooner than
    `flush_interval_s` after one that succeeded; "never" leaves it to cron or a person. `packages` are the names
    of the host's own packages, if another than that of the app: their frames are its own in reports of errors.

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
        if project_key is not None and project_key.startswith("phx_"):
            raise ValueError("project_key is a personal key (phx_): use the project's own (phc_), it can only capture")
        if durability not in ("process", "power") or flush not in ("auto", "never"):
            raise ValueError('durability is "process" or "power", flush is "auto" or "never"')
        destination: dict[str, str | None] = {"host": host, "project_key": project_key}
        if catalogue is not None and catalogue.name is not None:
            destination["catalogue"] = catalogue.name
        # The command that is under way in this process, if one is.
        self.under_way: CommandSpan | None = None
        # The command line beside the interpreter's own, for `main`; and what of it is the program's, not the person's.
        self.arguments: list[str] = []
        self.declared: set[str] = {app}
        self._secrets: set[str] = set()
        self._packages = {app.replace("-", "_"), *([packages] if isinstance(packages, str) else packages)}
        self.recorder = Recorder(
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
            )
        )
        self.recorder.on_event = self._touch
        living.add(self)
        atexit.register(_close, weakref.ref(self))

    @property
    def app(self) -> str:
        """The name that home and variables follow from."""
        return self.recorder.options.app

    @property
    def paths(self) -> Paths | None:
        """The files of this host's home, or None where no home can be named."""
        return self.recorder.paths

    @property
    def identity(self) -> Identity:
        """Who this install is, whether it is counted now, and by which rule. Reads the file each time."""
        return self.recorder.identity

    def project_id(self, project_dir: Path | str) -> str:
        """Give the id of a project of this install: 64 hexadecimal digits that name neither.

        sha256 of `{install_id}:{resolved dir}`. Empty where there is no install id, as when telemetry is off
        before the first run: `capture` leaves such a group out.
        """
        from hashlib import sha256  # noqa: PLC0415 - OpenSSL, some milliseconds, for hosts with projects

        world = self.recorder.look()
        if self.recorder.silenced_by(world) is None and self.recorder.load():
            self.recorder.admit(world)
        install_id = self.identity.install_id
        if install_id is None:
            return ""
        try:
            return sha256(os.fsencode(f"{install_id}:{os.path.realpath(project_dir)}")).hexdigest()
        except (OSError, ValueError):  # a working folder that was deleted, a name that is none
            return ""

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
        recorder = self.recorder
        world = recorder.look()
        off_by = recorder.silenced_by(world)
        if off_by is not None:
            return Receipt("disabled", reason=off_by)
        if not recorder.load():
            return recorder.miss()

        def compose(identity: Identity) -> Mapping[str, Any]:
            return recorder.compose(
                identity,
                event,
                properties,
                distinct_id=distinct_id,
                groups=groups,
                timestamp=timestamp,
                uuid=uuid,
            )

        with recorder.held():  # what a handler of the host raises is the host's, and comes out after this
            return recorder.record(world, compose)

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
        was marked as expected, and one that was reported before by another layer, is "disabled" with the
        reason. Otherwise as `capture`.
        """
        variable = self.recorder.silenced_by()
        if variable is not None:
            return Receipt("disabled", reason=variable)
        from spool.exception.report import exception_properties, first_time, forget, is_expected  # noqa: PLC0415 - when needed

        if is_expected(error):
            return Receipt("disabled", reason="an expected error")
        if not self.recorder.load():
            return self.recorder.miss()
        with self.recorder.held():  # an error that is marked as reported is on disk after this
            if not first_time(error):
                return Receipt("disabled", reason="reported already")
            receipt = Receipt("lost")
            try:
                properties = exception_properties(
                    error, handled=handled, secrets=chain(self._secrets, _listed(secrets)), typed=self._typed(),
                    in_app=self._is_own,
                )  # fmt: skip
                receipt = self.capture("$exception", properties, groups=groups)
            finally:
                if receipt.state in ("lost", "disabled"):
                    forget(error)  # another layer may have more luck
            return receipt

    def hide(self, *secrets: str) -> None:
        """Keep these texts, a password that was read from a file, out of all that is told of errors from now on."""
        self._secrets |= {secret for secret in secrets if secret}

    def redacted(self, text: str) -> str:
        """Give an error's text as it may be told: without what is hidden, and without what the person typed."""
        from spool.exception.redaction import redact, whereabouts  # noqa: PLC0415 - only when something went wrong

        home, user = whereabouts(os.environ)
        return redact(text, secrets=self._secrets, home=home, user=user, typed=self._typed())

    def _typed(self) -> frozenset[str]:
        from spool.exception.redaction import typed_words  # noqa: PLC0415 - only when something went wrong

        interpreters = getattr(sys, "argv", None) or []  # an embedded one may have none
        return typed_words([*interpreters[1:], *self.arguments], self.declared)

    def _is_own(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages

    def command(
        self, path: Sequence[str], flags: Mapping[str, object] | None = None, *, project: Path | str | None = None
    ) -> CommandSpan:
        """Give a context manager for one command: exactly one `command` event, on every way out.

        Also kill -9: the command is on disk from its beginning, and the next flush or the next start finds
        it dead. `flags` is what was given on the command line, by name; of the values only whether they
        were given is kept. `project` is the project's folder: its id becomes the group.
        """
        from spool.command.span import CommandSpan  # noqa: PLC0415 - for hosts that have commands

        return CommandSpan(self, path, flags or {}, project)

    @property
    def span(self) -> CommandSpan:
        """The command under way, to annotate it or to finish it early; where there is none, one that is no event's."""
        from spool.command.span import CommandSpan  # noqa: PLC0415 - for hosts that have commands

        return self.under_way if self.under_way is not None else CommandSpan(self)

    def signals(self) -> AbstractContextManager[None]:
        """See to SIGINT, SIGTERM and SIGHUP for the block, in a process entry without Typer or Click.

        A signal that ends the process ends its command first, which is put on disk as aborted. The host's own
        handlers are called as without this, and Ctrl-C stays Python's own.
        """
        from spool.command.signals import handled  # noqa: PLC0415 - for process entries only

        return handled(self)

    def main(self, app: Any, args: Sequence[str] | None = None) -> NoReturn:
        """Run a Typer or Click app as this process's entry: span, signal handling, exit code.

        Ends the process as the app would have ended it. Raises TypeError for what is neither. Its commands reach
        their event by `span`.
        """
        from spool.command.click_app import run  # noqa: PLC0415 - for process entries only

        run(self, app, args)

    def flush(self, timeout_s: float = 1.5) -> bool:
        """Run the flusher in a child process and wait at most `timeout_s`. True if the spool is drained.

        For machines that will not see a next start (a container). A child that takes longer goes on.
        """
        from spool.launch.start import run_and_wait  # noqa: PLC0415 - for hosts that wait

        paths = self.paths
        if paths is None or self.recorder.silenced_by() is not None:
            return False
        return run_and_wait(self.app, paths, timeout_s)

    def mistake(self, what: str) -> None:
        """Say a programming mistake: InvalidEventError in strict mode; in production the command goes on."""
        if self.recorder.strict:
            raise InvalidEventError(what)

    def _touch(self) -> None:
        if self.under_way is not None:
            self.under_way.touch()

    def close(self) -> None:
        """End an open command and close the queue. Captures after this open it again."""
        try:
            if self.under_way is not None:
                self.under_way.left_open()
        finally:
            self.recorder.close()


def _listed(secrets: Iterable[str]) -> Iterable[str]:
    """Give the secrets of a call; one text is one secret, not many of one character."""
    return (secrets,) if isinstance(secrets, str | bytes) else secrets


# Every Telemetry of this process, for the guard kit: one that a module holds goes from test to test.
living: weakref.WeakSet[Telemetry] = weakref.WeakSet()


def _close(reference: weakref.ref[Telemetry]) -> None:
    telemetry = reference()
    if telemetry is not None:
        telemetry.recorder.at_exit = True
        telemetry.close()
