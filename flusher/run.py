"""One pass of the flusher: absorb, recover, report losses, deliver until empty or told to stop, expire, remember."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from flusher import journal
from flusher.absorb import absorb
from flusher.context import REJECTED_REASON, Context, Result, RunReport, open_queue
from flusher.delivery import backoff, expiry, state
from flusher.delivery.expiry import FailedRun
from flusher.delivery.gather import BATCH_BYTES
from flusher.homes import is_install, shown, similar
from flusher.text import error_words, moment
from flusher.tidy import tidy
from spool.beside import loss_reasons
from spool.beside.loss_reasons import reason_of
from spool.beside.spans import recover_all
from spool.beside.wipe import wipe_once
from spool.consent import Consent, Identity, consent, read_stored
from spool.errors import ConfigurationError, ConsentChangedError, LockBusyError, SpoolError, UnavailableError
from spool.event import compose, envelope, freeze, host_facts
from spool.home import Paths, Quarantine, private_folder, write_new
from spool.launch.destination import Destination, host_catalogue, resolve
from spool.queue import FileLock, Queue
from spool.settings import VERSION, Limits

__all__ = ["run"]

# Taking out what was delivered needs some space before it gives any back: one batch of 500 events of 1 KB touches
# some 250 pages, which go through the log.
_RESERVE_BYTES = 1024 * 1024
# The contract's exit code for a destination that could not be reached, or refused.
_FAILED = 75
# The others have their reasons beside them in quarantine.
_MOST_NAMED = 3
# Nobody notices that a run began so much later.
_LOOK_AGAIN_S = 0.02
# A telemetry.json that changes at every look is nobody's decision.
_MOST_LOOKS = 3


def run(context: Context) -> RunReport:
    """Do one pass. At most one flusher works at a time; a second one ends at once, as does one while telemetry is off.

    Whatever stops it is in the report, as a result with a reason; nothing is lost by it.
    """
    report = context.report
    try:
        _run(context)
    except ConfigurationError as error:
        report.result, report.reason = Result.MISCONFIGURED, str(error)
    except (SpoolError, OSError) as error:
        report.result, report.reason = Result.FAILED, f"{error_words(error)}; nothing is lost"
    except Exception as error:
        report.result, report.reason = Result.FAILED, f"internal error ({type(error).__name__})"
        raise
    finally:
        report.set_aside = _told(context.quarantine)
        report.seconds = round(time.monotonic() - context.started, 3)
        journal.record(context)
        now = consent(context.app, context.paths, context.env)
        if now.refused:  # before this run, or while it wrote what the opt-out could not see yet
            wipe_once(context.paths, now.signature)
    return report


def _run(context: Context) -> None:
    for _ in range(_MOST_LOOKS):
        now = consent(context.app, context.paths, context.env)
        if not now.identity.enabled:
            context.report.result, context.report.reason = Result.OFF, now.identity.decided_by
            return
        with suppress(ConsentChangedError):  # ask again: it may be on all the same
            _run_under(now, context)
            return
    raise UnavailableError("telemetry.json changes all the time")


def _run_under(now: Consent, context: Context) -> None:
    report, paths = context.report, context.paths
    if not paths.spool.exists():
        _check_options(context)
        if not is_install(paths.home):
            report.reason = f"nothing was ever spooled in {shown(paths.home)}{similar(paths.home)}"
        return
    private_folder(paths.spool)
    context.quarantine.clear(paths.flush_lock, "file")
    lock = FileLock(paths.flush_lock)
    if not _had(lock, context):
        report.result = Result.BUSY
        return
    # A file aside may have been acknowledged with `power`: so the commits that absorb it survive a power cut.
    queue = open_queue(paths, "power", paths.reserve, context.clock, now.signature)
    try:
        try:
            _pass(context, queue)
        except ConsentChangedError:
            raise
        except Exception as error:  # what waits stays, and is told
            _tell_failure(context, queue, error)
            raise
        context.account = queue.account()
        report.remaining = context.account.pending
    finally:
        queue.close()
        _keep_reserve(paths)
        lock.close()


def _tell_failure(context: Context, queue: Queue, error: Exception) -> None:
    """Leave word of a run that could not do its work, for the report, `status` and `doctor`."""
    with suppress(SpoolError, OSError):
        context.report.remaining = queue.account().pending
    result = Result.MISCONFIGURED if isinstance(error, ConfigurationError) else Result.FAILED
    _store_result(context, result, str(error) if isinstance(error, SpoolError) else f"{type(error).__name__}: {error}")


def _store_result(context: Context, result: Result, reason: str) -> None:
    with context.quarantine.going_on(context.paths.flush_state):
        before = state.load(context.paths)
        after = replace(before, last_attempt=context.clock(), last_result=result.value, reason=reason)
        state.store(context.paths, after)


def _had(lock: FileLock, context: Context) -> bool:
    """Take the flusher's lock, in the time that the run may wait for another flusher."""
    deadline = time.monotonic() + context.options.wait_s
    while True:
        with suppress(LockBusyError):
            lock.acquire(0.0)
            return True
        left = deadline - time.monotonic()
        if left <= 0 or context.stop.wait(min(left, _LOOK_AGAIN_S)):
            return False


def _pass(context: Context, queue: Queue) -> None:
    report = context.report
    _check_options(context)
    if context.options.dry_run:
        report.result, report.reason = Result.NOTHING, "dry run: nothing was sent or changed"
        return
    tidy(context.paths, context.quarantine)
    queue.verify()
    _take_in(context, queue)
    _report_losses(queue, context.identity, context.clock())
    if queue.account().pending == 0:
        if report.rejected:
            report.result, report.reason = Result.REJECTED, REJECTED_REASON
        return
    before = state.load(context.paths)
    destination = resolve(context.app, context.paths, context.env, host=context.options.host, key=context.options.key)
    if destination.project_key is None:
        report.result = Result.NO_KEY
        report.reason = "no project key: run the host CLI once, or give --key; the events are kept"
        _store_result(context, report.result, report.reason)
        return
    if not context.options.force and not backoff.is_due(before.waiting, context.clock()):
        report.result, report.reason = Result.BACKING_OFF, before.reason
        report.next_attempt = moment(before.next_attempt)
        return
    _deliver(context, queue, destination, before)


def _check_options(context: Context) -> None:
    """Raise ConfigurationError for a mistake in these options, also where nothing waits."""
    if context.options.host or context.options.key:
        resolve(context.app, context.paths, context.env, host=context.options.host, key=context.options.key)


def _take_in(context: Context, queue: Queue) -> None:
    """Bring into the queue what stands beside it. What is in the way of that is told, and stops nothing else."""
    report, paths, quarantine = context.report, context.paths, context.quarantine
    with quarantine.going_on(paths.aside):
        taken = absorb(paths, queue, context.identity.install_id, host_catalogue(paths), quarantine)
        report.absorbed += taken.events
        report.rejected += taken.rejected
    with quarantine.going_on(paths.spans):
        report.recovered_spans += recover_all(paths, queue, quarantine)
    if quarantine.lost:
        with suppress(OSError, SpoolError):  # they are counted, and each has its reason beside it in quarantine
            loss_reasons.note(context.app, paths, [reason_of(*one) for one in quarantine.lost])


def _told(quarantine: Quarantine) -> str:
    """Say what was set aside and what could not be: the first of it by name, the rest by number."""
    parts = []
    for verb, entries in (("set aside in quarantine", quarantine.taken), ("left where it is", quarantine.left)):
        if entries:
            more = f" and {len(entries) - _MOST_NAMED:,} more" if len(entries) > _MOST_NAMED else ""
            parts.append(f"{verb}: {', '.join(entries[:_MOST_NAMED])}{more}")
    return "; ".join(parts)


def _report_losses(queue: Queue, identity: Identity, now: float) -> None:
    """Append a `spool_loss` event with the counts by cause, if anything was lost since the last one."""

    def loss_event(losses: dict[str, int]) -> str:
        message = compose(
            "spool_loss",
            {"lostCount": sum(losses.values()), "lostByCause": losses},
            {**host_facts(VERSION, os.environ), **envelope(None, geoip_disable=True)},
            distinct_id=identity.install_id or "unknown",
            timestamp=datetime.fromtimestamp(now, UTC),
            uuid=None,
        )
        return freeze(message, Limits().max_event_bytes).text

    queue.report_losses(loss_event)


def _keep_reserve(paths: Paths) -> None:
    """Keep some space for a full disk, while the disk has four times as much."""
    if os.path.lexists(paths.reserve):
        return
    with suppress(OSError):
        if shutil.disk_usage(paths.spool).free > 4 * _RESERVE_BYTES:
            write_new(paths.reserve, bytes(_RESERVE_BYTES))


def _deliver(context: Context, queue: Queue, destination: Destination, before: state.FlushState) -> None:
    from flusher.delivery.drain import Drain  # noqa: PLC0415 - with it
    from flusher.delivery.wire import Courier  # noqa: PLC0415 - posthog costs 200 ms, for runs that send only

    report = context.report
    courier = Courier(destination, context.env, context.options.timeout_s)
    retries = backoff.in_run_retries(context.options.max_retries, before.failures, force=context.options.force)
    drain = Drain(context, queue, courier, retries, before.batch_bytes)
    try:
        context.observer.begins(min(queue.account().pending, context.options.max_events or 2**53))
        report.result, report.reason, retry_after_s = drain.run()
        if report.result in (Result.DELIVERED, Result.REJECTED):
            _check_emptied(context, queue)
    finally:
        context.observer.ends()
        courier.close()
        report.requests = courier.requests
    fits = drain.most_bytes if drain.most_bytes < BATCH_BYTES else None
    failed = before.failed_runs
    if report.delivered or report.rejected:
        failed = ()  # the destination takes events: it has not refused those that are left
    elif report.result.exit_code == _FAILED:
        failed = _expire(context, queue, failed)
    _remember(context, replace(before, batch_bytes=fits, failed_runs=failed), retry_after_s)


def _expire(context: Context, queue: Queue, runs: Sequence[FailedRun]) -> tuple[FailedRun, ...]:
    """Drop what this run, which could not deliver, and one at least a day before it found too old.

    Gives the runs to remember, this one among them if it is a day after the last one.
    """
    max_age_s, now = queue.limits.max_age_s, context.clock()
    this = FailedRun(now, queue.account().sequence, *context.uptime())
    first = expiry.earliest(read_stored(context.paths.identity).created_at, now)
    earlier = expiry.plausible(runs, now, first)
    if now < first or (earlier and expiry.elapsed_s(earlier[-1], this) < expiry.apart_s(max_age_s)):
        return tuple(earlier)
    if earlier:
        context.report.expired = queue.expire(lambda row: expiry.is_too_old(row, earlier, now, max_age_s, first))
    return expiry.noted([*earlier, this], max_age_s)


def _check_emptied(context: Context, queue: Queue) -> None:
    """Check that what a drain left can be read: pages that can't be read would end it early without an error."""
    if queue.account().pending and next(queue.gather(), None) is None and context.options.max_events is None:
        queue.rebuild("the drain ended before the queue was empty")


def _remember(context: Context, before: state.FlushState, retry_after_s: float | None) -> None:
    """Store the outcome of this run for all processes, and when the next one may try."""
    report, now = context.report, context.clock()
    after = replace(before, last_attempt=now, last_result=report.result.value, reason=report.reason)
    if report.result.exit_code == _FAILED:
        failures = before.failures + 1
        waiting = backoff.after_failure(
            failures, now, context.rng, retry_after_s=retry_after_s, slow=report.result is Result.REFUSED
        )
        after = replace(after, failures=failures, next_attempt=waiting.until, delay_s=waiting.delay_s)
    elif report.delivered or report.rejected:
        after = replace(after, last_success=now, failures=0, next_attempt=None, delay_s=0.0)
    report.next_attempt = moment(after.next_attempt)
    with context.quarantine.going_on(context.paths.flush_state):  # else the next run may come too early, no more
        state.store(context.paths, after)
