"""One event, from the host's call to the disk.

Environment and consent, then the event is built and frozen, then it is appended to the queue; else it goes aside; else
a note of its loss is left. Nothing here raises for the machine, waits longer than `lock_wait_s`, or prints to stdout.
All of it runs with signals held.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from spool.beside import make_way
from spool.beside.wipe import wipe_once
from spool.consent import Consent, Identity
from spool.consent.first_run import first_run, first_run_notice, say
from spool.errors import ConsentChangedError, InvalidEventError, SpoolError, UnavailableError, UnsafePathError
from spool.event import Event, compose, envelope, freeze, host_facts
from spool.home import Paths, signature
from spool.host import MACHINE, Host, Receipt, Surroundings
from spool.launch import destination, start
from spool.open_home import OpenHome

if TYPE_CHECKING:
    from spool.catalogue import Event as TypedEvent

__all__ = ["build", "capture", "consented", "count_mistake", "opened"]

# A telemetry.json that changes at every look is nobody's decision.
_MOST_LOOKS = 3

Properties = Mapping[str, Any] | None


def capture(
    host: Host,
    now: Surroundings,
    event: str,
    properties: Properties | TypedEvent,
    closes: str | None = None,
    **options: Any,
) -> Receipt:
    """Put one event on disk; with a true receipt it survives kill -9 of any process. Options as in `build`.

    `closes` is the command that the event ends. Raises for a programming mistake, in strict mode alone.
    """
    try:
        consent = consented(host, now)
        if not (now.debug or consent.identity.enabled):
            return Receipt("disabled", reason=consent.identity.decided_by)
        frozen = _frozen(host, consent.identity, event, properties, **options)
        if now.debug or now.paths is None:
            say(f"[telemetry] {frozen.text}")
            return Receipt("debug", frozen.uuid, "telemetry is in debug mode: nothing is stored or sent")
        receipt = _store(host, now.paths, consent, frozen, closes)
        if receipt and type(event) is str:  # another kind of text may have no hash
            host.emitted.add(event)
        return receipt
    except InvalidEventError as mistake:
        return count_mistake(host, now, event, mistake)
    except Exception as error:
        if host.raises(error):
            raise
        return host.lost(event, error)


# -- consent --------------------------------------------------------------------------------------------


def consented(host: Host, now: Surroundings) -> Consent:
    """Give the consent to capture under; the first run makes an identity, an opt-out deletes what waits."""
    consent = host.consent.ask(now.paths, os.environ, now.off_by)
    if now.paths is None or now.debug:
        return consent
    if consent.refused and host.wiped_for != consent.signature:  # once a process: what stays is deleted by the next one
        host.wiped_for = consent.signature
        wipe_once(now.paths, consent.signature, host.options.limits.lock_wait_s)
    if not consent.identity.enabled or consent.identity.install_id is not None:
        return consent
    return _first_run(host, now, now.paths, consent)


def _first_run(host: Host, now: Surroundings, paths: Paths, consent: Consent) -> Consent:
    """Make the identity of this install, with its one notice and its one event, whoever is first."""
    install_id = str(uuid4())
    identity = Identity(install_id, enabled=True, decided_by="first run")
    message, limits = build(host, identity, "install_first_run", None, uuid=install_id), host.options.limits
    text = freeze(message, limits.max_event_bytes).text
    try:
        try:
            first = first_run(paths, install_id, text, limits.lock_wait_s)
        except UnsafePathError:
            make_way(paths)
            first = first_run(paths, install_id, text, limits.lock_wait_s)
    except (OSError, SpoolError):
        return consent._replace(identity=Identity(None, enabled=False, decided_by="home not usable"))
    if first:
        say(first_run_notice(host.options.app, host.prefix), dim=True)
    return host.consent.ask(paths, os.environ, now.off_by)


# -- the event ------------------------------------------------------------------------------------------


def _frozen(host: Host, identity: Identity, event: str, properties: Properties | TypedEvent, **options: Any) -> Event:
    """Build the event and freeze it. What an object of the host's raises meanwhile is a mistake of the program's."""
    try:
        return freeze(build(host, identity, event, properties, **options), host.options.limits.max_event_bytes)
    except (SpoolError, *MACHINE):
        raise
    except Exception as error:
        raise InvalidEventError(f"{event}: a value can't be read: {type(error).__name__}: {error}") from error


def build(  # noqa: PLR0913 - the parts of an event, by name
    host: Host,
    identity: Identity,
    event: str,
    properties: Properties | TypedEvent,
    *,
    distinct_id: str | None = None,
    groups: Mapping[str, str] | None = None,
    timestamp: datetime | None = None,
    uuid: str | UUID | None = None,
) -> dict[str, Any]:
    """Put an event together for an identity; InvalidEventError if it is none, or not in the host's catalogue."""
    catalogue = host.options.catalogue
    own: Any = properties if catalogue is None else catalogue.check(event, properties)
    who = distinct_id or identity.install_id or "unknown"
    return compose(event, own, _envelope(host, groups), distinct_id=who, timestamp=timestamp, uuid=uuid)


def _envelope(host: Host, groups: Mapping[str, str] | None) -> dict[str, Any]:
    """Give the properties that every event has; made once for the events without groups, which most are."""
    if groups is None and host.envelope is not None:
        return host.envelope
    made = {**host_facts(host.options.version, os.environ), **envelope(groups, **host.options.privacy)}
    if groups is None:
        host.envelope = made
    return made


# -- the disk -------------------------------------------------------------------------------------------


def _store(host: Host, paths: Paths, consent: Consent, event: Event, closes: str | None) -> Receipt:
    """Append the event; else put it aside; else leave a note of its loss."""
    if host.span is not None:
        host.span.touch()  # a command that is killed later lived until now at least
    home = opened(host, paths)
    if host.unexplained:
        host.note_unexplained(paths)
    if home.losses.unnoted:
        home.losses.retry()
    for _ in range(_MOST_LOOKS):
        try:
            _append(home, consent, event, closes)
            return Receipt("queued", event.uuid)
        except ConsentChangedError:
            consent = consented(host, host.look())
            if not consent.identity.enabled:
                return Receipt("disabled", reason=consent.identity.decided_by)
        except Exception as refusal:  # noqa: BLE001 - whatever keeps it from the queue, aside is next
            return _put_aside(host, home, consent, event, refusal)
    return _put_aside(host, home, consent, event, UnavailableError("telemetry.json changes all the time"))


def _append(home: OpenHome, consent: Consent, event: Event, closes: str | None) -> None:
    if home.on_network:
        raise UnavailableError("the home is on a network file system")
    home.queue.append(event.text, consent=consent.signature, closes=closes)


def _put_aside(host: Host, home: OpenHome, consent: Consent, event: Event, refusal: Exception) -> Receipt:
    if signature(home.paths.identity) != consent.signature:
        consent = consented(host, host.look())
        if not consent.identity.enabled:
            return Receipt("disabled", reason=consent.identity.decided_by)
    try:
        path = home.put_aside(event.uuid, event.text)
    except SpoolError as second:
        raise type(second)(f"{refusal}; {second}") from second
    if signature(home.paths.identity) != consent.signature:  # an opt-out may not have seen the file
        consent = consented(host, host.look())
        if not consent.identity.enabled:
            with suppress(OSError):  # it has seen it
                os.unlink(path)
            return Receipt("disabled", reason=consent.identity.decided_by)
    return Receipt("aside", event.uuid, str(refusal))


def opened(host: Host, paths: Paths) -> OpenHome:
    """Give a home's spool, opened at its first use.

    What dead commands left is recovered then, and a flusher is started if something waits and one is due.
    """
    home = host.homes.get(paths.home)
    if home is None:
        waited = start.waits(paths)
        made = OpenHome(paths, host.options.limits, host.options.durability, host.losses_of(paths))
        home = host.homes.setdefault(paths.home, made)
        if home is not made:  # another thread was faster
            return home
        destination.leave(paths, host.options.destination, host.options.limits)
        consent = host.consent.ask(paths, os.environ, None)
        if consent.identity.enabled:
            home.recover(consent.signature)
        if waited:
            host.launch(home)
    elif not os.path.exists(paths.destination):  # the folder was removed under us
        destination.leave(paths, host.options.destination, host.options.limits)
    return home


def count_mistake(host: Host, now: Surroundings, event: object, mistake: InvalidEventError) -> Receipt:
    """Count an event that is none: a programming mistake, which raises in strict mode."""
    if host.raises(mistake):
        raise mistake
    if now.debug or now.paths is None:
        return host.lost(event, mistake)
    return host.lost(event, mistake, opened(host, now.paths).count_lost)
