"""Telemetry: the one object that a host holds."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from spool.consent import is_set, opted_out_by
from spool.errors import InvalidEventError, SpoolError
from spool.identity import Identity, consent, mint
from spool.paths import Paths, resolve_home
from spool.settings import DEFAULT_HOST, Durability, FlushMode, Limits, env_prefix

if TYPE_CHECKING:
    from uuid import UUID

    from spool.event import Event
    from spool.spool import Spool

__all__ = ["Receipt", "Telemetry"]

_NOTICE = (
    "{app} collects anonymous usage data to improve the product. To say no: set {prefix}TELEMETRY_DISABLED=1."
)


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
    closes it. `project_key` None keeps the events until a key is known.

    Raises ValueError for an app that is no plain name and for a personal key (`phx_`): both are mistakes
    that show at the first run of the author.
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
    ) -> None:
        self._prefix = env_prefix(app)
        if project_key is not None and project_key.startswith("phx_"):
            raise ValueError(
                "project_key is a personal key (phx_): use the project's own (phc_), it can only capture"
            )
        self.app = app
        self.version = version
        self.limits = limits or Limits()
        self._destination = {"host": host, "project_key": project_key}
        self._home = home
        self._catalogue = catalogue
        self._durability: Durability = durability
        self._flush_mode: FlushMode = flush
        self._geoip_disable = geoip_disable
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

    def _admit(self, paths: Paths | None) -> Identity:
        """Give the identity to capture under; the first run mints it."""
        identity = consent(self.app, paths, os.environ).identity
        if paths is None or not identity.enabled or identity.install_id is not None:
            return identity
        try:
            minted = mint(paths)
        except (OSError, SpoolError):
            return Identity(None, enabled=False, decided_by="home not usable")
        identity = consent(self.app, paths, os.environ).identity
        if minted and identity.install_id is not None:
            self._say(_NOTICE.format(app=self.app, prefix=self._prefix))
            self._capture(paths, identity, "install_first_run", None)
            return Identity(identity.install_id, enabled=True, decided_by="first run")
        return identity

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
        from spool.interrupts import signals_held  # noqa: PLC0415 - signal and threading, at first use

        with signals_held():  # what a handler of the host raises is the host's, and comes out after this
            options = {"distinct_id": distinct_id, "groups": groups, "timestamp": timestamp, "uuid": uuid}
            return self._receive(event, properties, options)

    def _receive(self, event: str, properties: Mapping[str, Any] | None, options: dict[str, Any]) -> Receipt:
        debug = is_set(os.environ.get(self._prefix + "TELEMETRY_DEBUG"))
        paths = self.paths
        try:
            if debug:
                identity = consent(self.app, paths, os.environ).identity
                return self._show(self._build(identity, event, properties, **options))
            variable = opted_out_by(self.app, os.environ)
            if variable is not None:
                return Receipt("disabled", reason=variable)
            identity = self._admit(paths)
            if paths is None or not identity.enabled:
                return Receipt("disabled", reason=identity.decided_by)
            return self._capture(paths, identity, event, properties, **options)
        except InvalidEventError as error:
            if self._strict:
                raise
            if not debug and paths is not None:
                self._spool(paths).count_lost(error.cause)
            return Receipt("lost", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the host comes first: whatever it is, it is a receipt
            return Receipt("lost", reason=f"{type(error).__name__}: {error}")

    def _capture(
        self,
        paths: Paths,
        identity: Identity,
        event: str,
        properties: Mapping[str, Any] | None,
        **options: Any,
    ) -> Receipt:
        frozen = self._build(identity, event, properties, **options)
        spool = self._spool(paths)
        spool.tally.retry()
        try:
            spool.append(frozen.text)
        except SpoolError as refusal:
            return self._put_aside(spool, frozen, refusal)
        return Receipt("queued", frozen.uuid)

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
        from spool.event import build, envelope  # noqa: PLC0415 - json and uuid only when something is captured

        return build(
            event,
            properties,
            {**self._common_fields(), **envelope(groups, geoip_disable=self._geoip_disable)},
            distinct_id=distinct_id or identity.install_id or "unknown",
            timestamp=options.get("timestamp"),
            uuid=options.get("uuid"),
            max_bytes=self.limits.max_event_bytes,
        )

    def _put_aside(self, spool: Spool, frozen: Event, refusal: SpoolError) -> Receipt:
        from spool import aside  # noqa: PLC0415 - rarely needed

        try:
            aside.put(spool.paths, frozen.uuid, frozen.text, self._durability)
        except SpoolError as second:
            spool.tally.add(second.cause)
            return Receipt("lost", frozen.uuid, f"{refusal}; {second}")
        return Receipt("aside", frozen.uuid, str(refusal))

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
            destination.leave(paths, self._destination)
        return spool

    def _common_fields(self) -> dict[str, Any]:
        if self._common is None:
            from spool.host_facts import host_facts  # noqa: PLC0415 - only what captures needs it

            self._common = host_facts(self.version, os.environ)
        return self._common

    @property
    def _strict(self) -> bool:
        return is_set(os.environ.get(self._prefix + "TELEMETRY_STRICT"))

    def _say(self, line: str) -> None:
        """Write one line to stderr, which a daemon may have closed. Stdout may be a protocol channel."""
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            return  # nobody listens: there is nobody left to tell

    def close(self) -> None:
        """Close the queue. Captures after this open it again."""
        for spool in self._spools.values():
            spool.close()


def _close(reference: weakref.ref[Telemetry]) -> None:
    telemetry = reference()
    if telemetry is not None:
        telemetry.close()
