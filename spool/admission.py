"""Who is captured, and whether: consent as a capture asks for it, the first run, an opt-out that is carried out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from spool.consent.identity import Consent, Identity, Signature, Watch, inspect
from spool.consent.opt_out import is_wiped, refused_by_mark, wipe_once
from spool.consent.rule import File, Home
from spool.errors import SpoolError
from spool.settings import env_prefix
from spool.world import World

__all__ = ["Admission"]


class Admission:
    """Consent for one app's process, with what follows from it."""

    def __init__(self, app: str, lock_wait_s: float) -> None:
        self._app = app
        self._lock_wait_s = lock_wait_s
        self._watch = Watch(app)
        self._wiped: Signature | None = None

    def admit(self, world: World, first_event: Callable[[str], str]) -> Consent:
        """Give the consent to capture under; the first run mints an identity, an opt-out deletes what waits.

        `first_event` gives the text of the event that tells of the install, by its id.
        """
        paths = world.paths
        now = self._watch.consent(paths, os.environ, world.off_by)
        if paths is None or world.debug:
            return now
        if _said_no(now) and self._wiped != now.signature:  # once a process: what stays is deleted by the next one
            self._wiped = now.signature
            wipe_once(paths, now.signature, self._lock_wait_s)
        if not now.identity.enabled or now.identity.install_id is not None:
            return now
        from spool.consent.first_run import first_run  # noqa: PLC0415 - once in the life of an install
        from spool.consent.notice import first_run_notice, say  # noqa: PLC0415 - with it

        try:
            minted = first_run(paths, first_event)
        except (OSError, SpoolError):
            return now._replace(identity=Identity(None, enabled=False, decided_by="home not usable"))
        if minted:
            say(first_run_notice(self._app, env_prefix(self._app)), dim=True)
        return self._watch.consent(paths, os.environ, world.off_by)

    def refused_by(self, world: World) -> str | None:
        """Name the file that says no and whose opt-out was carried out, without writing or loading anything.

        Whoever said no doesn't pay for the modules of a queue that stays empty.
        """
        paths = world.paths
        if paths is None:
            return None
        with suppress(OSError):
            if refused_by_mark(paths) and inspect(paths.home) is Home.USABLE:
                return "telemetry.json"
        now = self._watch.consent(paths, os.environ, world.off_by)
        with suppress(OSError):
            return now.identity.decided_by if _said_no(now) and is_wiped(paths, now.signature) else None
        return None


def _said_no(now: Consent) -> bool:
    return now.file is File.DISABLED and now.identity.decided_by == "telemetry.json"
