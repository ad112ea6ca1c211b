"""`ktx-flush doctor`: look at everything that delivery needs, change nothing, and say how to mend what is wrong.

Without --send it asks the server by a batch that holds no event, and not even that while telemetry is off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from flusher.context import NO_HOME
from flusher.delivery import expiry, state
from flusher.doctor import checks
from flusher.doctor.disk import (
    Inspected,
    inspect_queue,
    look_at_files,
    look_at_home,
    names,
    scratch,
    try_canary,
    try_lock,
)
from flusher.doctor.finding import Finding
from flusher.report.launch import launch_problem
from flusher.schedule.cron import daemon_runs
from flusher.schedule.method import stale
from flusher.schedule.planner import does_not_start, look_at_all, tool
from flusher.schedule.timetable import entry_name
from flusher.text import error_words
from spool.beside import aside, loss_reasons
from spool.consent import consent, read_stored
from spool.errors import ConfigurationError, SpoolError
from spool.event import compose, envelope, freeze, host_facts
from spool.home import Paths, file_system, is_network
from spool.launch.destination import Destination, check_host, resolve
from spool.queue import Row, sqlite_facts
from spool.settings import VERSION, Limits, env_prefix, is_set

__all__ = ["examine"]

P = ParamSpec("P")
T = TypeVar("T")

# The courier's own limit, and a little more.
_ANSWER_S = 35.0


def examine(app: str, paths: Paths, env: Mapping[str, str], *, send: bool) -> list[Finding]:
    """Look at everything, once; with `send` one canary event goes to the server. Never raises for what it finds."""
    return _Examination(app, paths, env).run(send=send)


@dataclass(slots=True)
class _Examination:
    """What is examined: one app's home, in one environment, and what was found so far."""

    app: str
    paths: Paths
    env: Mapping[str, str]
    findings: list[Finding] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """The prefix of the app's variables."""
        return env_prefix(self.app)

    @property
    def tool(self) -> str:
        """The command line that means this app and home."""
        return tool(self.app, self.paths, self.env)

    @property
    def may_send(self) -> bool:
        """Whether telemetry is on here, now: asked before every request."""
        debug = is_set(self.env.get(f"{self.prefix}TELEMETRY_DEBUG"))
        return consent(self.app, self.paths, self.env).identity.enabled and not debug

    def run(self, *, send: bool) -> list[Finding]:
        """Look at everything, once; with `send` one canary event goes to the server."""
        identity = consent(self.app, self.paths, self.env).identity
        debug = is_set(self.env.get(f"{self.prefix}TELEMETRY_DEBUG"))
        self.findings.append(checks.consent(identity, self.prefix, str(self.paths.home), self.tool, debug=debug))
        destination = self._alone("destination", self._destination)
        if destination is not None:
            self._alone("server", self._server, destination)
        canary, inspected = None, None
        if self._alone("home", self._home):
            canary, inspected = self._alone("disk", self._disk) or (None, None)
        if send and canary is not None and destination is not None and destination.project_key is not None:
            self._alone("delivery", self._send, destination, canary)
        self._alone("launch", self._launch)
        self._alone("schedule", self._schedule)
        if inspected is not None:
            self._alone("flusher", self._flusher, inspected)
        return self.findings

    def _alone(self, name: str, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Do one check; one that fails is a finding, and keeps no other one from being done."""
        try:
            return check(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is found
            what = f"this could not be looked at: {error_words(error)}"
            self.findings.append(Finding(name, "fail", what, f"mend what is said there, then run {self.tool} doctor"))
            return None

    # -- where events go ----------------------------------------------------------------------------------------

    def _destination(self) -> Destination | None:
        """Judge key and host each for itself; give both where the host can be used."""
        app, paths, env = self.app, self.paths, self.env
        found, host_problem = None, None
        try:
            found = resolve(app, paths, env, key="phc_")
        except ConfigurationError as error:
            host_problem = str(error)
        key, key_problem = None, None
        try:
            key = resolve(app, paths, env, host="https://localhost").project_key
        except ConfigurationError as error:
            key_problem = str(error)
        host = None if found is None else found.host
        self.findings += [
            checks.key(key, key_problem, self.prefix),
            checks.host(host, host_problem, self.prefix, encrypted=_is_encrypted(host)),
        ]
        return None if found is None else found._replace(project_key=key)

    def _server(self, destination: Destination) -> None:
        if not self.may_send:
            return
        from flusher.delivery.wire import probe  # noqa: PLC0415 - posthog costs 200 ms, for telemetry that is on

        if not self.may_send:  # somebody may have said no meanwhile
            return
        try:
            answer = probe(destination, self.env)
        except ConfigurationError as error:
            self.findings.append(checks.connection(str(error)))
            return
        now = datetime.now(UTC)
        self.findings.append(checks.server(destination.host, answer, now))
        clock = checks.clock(answer.date, now)
        if clock is not None:
            self.findings.append(clock)

    def _send(self, destination: Destination, canary: Row) -> None:
        """Send the canary, once, without the number that the scratch queue gave it: a gap in them means a loss."""
        from flusher.delivery.wire import Courier  # noqa: PLC0415 - as above

        if not self.may_send:
            return
        try:
            courier = Courier(destination, self.env)
        except ConfigurationError:
            return  # said above
        try:
            if not self.may_send:  # as above
                return
            answer = courier.send([canary]).wait(_ANSWER_S)
        finally:
            courier.close()
        self.findings.append(checks.delivery(answer, datetime.now(UTC), self.tool))

    # -- where events wait --------------------------------------------------------------------------------------

    def _home(self) -> bool:
        """Judge the home; tell whether there is one to look into."""
        if self.paths.home == NO_HOME:
            self.findings.append(checks.no_home(self.prefix))
            return False
        facts = look_at_home(self.paths.home)
        can_be_made = consent(self.app, self.paths, {}).identity.decided_by != "home not usable"
        self.findings.append(checks.home(facts, self.prefix, can_be_made=can_be_made))
        return facts.mode is not None and facts.is_folder

    def _disk(self) -> tuple[Row | None, Inspected | None]:
        """Judge file system, files, SQLite; then try locks, a canary and a copy of the queue in a scratch folder."""
        paths, found = self.paths, self.findings
        self._alone("file system", self._file_system)
        files = self._alone("files", lambda: checks.files(list(look_at_files(paths)), str(paths.spool)))
        sqlite = self._alone("sqlite", self._sqlite)
        quarantine = checks.quarantine(names(paths.quarantine), str(paths.quarantine))
        losses = checks.losses(loss_reasons.read(paths), self.tool)
        found += [one for one in (files, sqlite, quarantine, losses) if one is not None]
        if not self.may_send or files is None or sqlite is None:
            return None, None
        try:
            with scratch(paths) as folder:
                # To lock a file sets its mode right: while modes are wrong, that is left to the person.
                locked = self._locks(folder, own=files.state == "ok")
                canary = self._canary(folder) if sqlite.state == "ok" and self.may_send else None
                if not self.may_send:  # somebody said no meanwhile: the copy of the queue would hold events
                    return None, None
                if locked and files.state == "ok" and sqlite.state == "ok":
                    return canary, self._queue(folder)
                found.append(checks.queue_not_seen(self.tool))
                return canary, None
        except OSError as error:
            found.append(checks.canary(error, self.prefix))
            return None, None

    def _file_system(self) -> None:
        kind, home = file_system(self.paths.home), self.paths.home
        self.findings.append(checks.network(kind, self.prefix, is_network=is_network(home)))

    def _sqlite(self) -> Finding:
        version, takes_double_quotes = sqlite_facts()
        return checks.sqlite(version, takes_double_quotes=takes_double_quotes)

    def _locks(self, folder: Path, *, own: bool) -> bool:
        path = self.paths.queue_lock
        error: Exception | None = None
        try:
            try_lock(folder, path if own else None)
        except (SpoolError, OSError) as refusal:
            error = refusal
        self.findings.append(checks.locks(error, str(path), self.prefix))
        return error is None

    def _canary(self, folder: Path) -> Row | None:
        """Give the canary as it came out of a scratch queue, without its number there."""
        identity = consent(self.app, self.paths, self.env).identity
        fields = {**host_facts(VERSION, self.env), **envelope(None, geoip_disable=True, person_profiles=False)}
        distinct_id = identity.install_id or "unknown"
        message = compose("spool_canary", None, fields, distinct_id=distinct_id, timestamp=None, uuid=None)
        event = freeze(message, Limits().max_event_bytes)
        stored, error = None, None
        try:
            stored = try_canary(folder, event.text)
        except (SpoolError, OSError, ValueError) as refusal:
            error = refusal
        self.findings.append(checks.canary(error, self.prefix))
        return None if stored is None else stored._replace(text=event.text)

    def _queue(self, folder: Path) -> Inspected | None:
        try:
            inspected = inspect_queue(self.paths, folder)
        except (SpoolError, OSError) as error:
            self.findings.append(
                Finding("queue", "warn", f"it could not be looked at: {error_words(error)}", "mend what is said here")
            )
            return None
        account = inspected.account
        self.findings.append(checks.queue(inspected.damage, account.pending, account.dead, self.tool))
        return None if inspected.damage else inspected

    # -- what comes of it ---------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        found, _unseen = look_at_all()
        own = entry_name(self.app, self.paths.home)
        judged = [(one, stale(one.command, home_too=one.name != own)) for one in found]  # our home was looked at
        self.findings += checks.schedule(judged, own, self.tool, daemon=daemon_runs())

    def _launch(self) -> None:
        self.findings.append(checks.launch(launch_problem(self.paths, time.time()), does_not_start()))

    def _flusher(self, inspected: Inspected) -> None:
        now = time.time()
        beside = aside.files(self.paths)
        moments = [inspected.account.oldest_at] if inspected.account.oldest_at is not None else []
        for path in beside[:1]:
            try:
                moments.append(os.stat(path).st_mtime)
            except OSError:
                continue  # absorbed since it was listed
        first = expiry.earliest(read_stored(self.paths.identity).created_at, now)
        oldest_age_s = expiry.age_s(min(moments), first, now) if moments else None
        waiting = inspected.account.pending + len(beside)
        self.findings.append(checks.flusher(state.load(self.paths), waiting, oldest_age_s, now, self.tool))


def _is_encrypted(host: str | None) -> bool:
    """Tell whether the host would be taken without the variable that allows every one."""
    try:
        check_host(host or "", "")
    except ConfigurationError:
        return False
    return True
