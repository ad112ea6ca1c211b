"""Large events over a slow uplink: a batch that takes too long becomes smaller, and what went through is remembered.

The times are a twentieth of the real ones: 1.5 s for a request instead of 30, and an uplink that carries in that time
what one of 40 kB/s carries in 30 s, by the same measure.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flusher.context import Context, Options, Result, RunReport
from flusher.run import run
from spool import Telemetry
from spool.home import Paths
from tests.support.local_posthog import LocalPostHog, hang, status
from tests.support.processes import KEY, flush_json
from tests.support.slow_uplink import slow_uplink
from tests.support.tls import certificate, https, needs_openssl

TIMEOUT_S = 1.5
BYTES_PER_S = 100_000
EVENTS, NOISE_BYTES = 8, 45_000


def large_events(home: Path, url: str, count: int = EVENTS, noise_bytes: int = NOISE_BYTES) -> set[str]:
    """Spool events that gzip can't make smaller than their noise; all at once they take some four timeouts."""
    telemetry = Telemetry("ktx", "1", KEY, url, home, flush="never")
    uuids = {str(telemetry.capture("large", {"noise": os.urandom(noise_bytes).hex()}).uuid) for _ in range(count)}
    telemetry.close()
    return uuids


def one_run(home: Path, max_retries: int = 3, **options: float) -> RunReport:
    """Deliver as `ktx-flush run --force` does, with less patience for a request."""
    chosen = Options(force=True, max_retries=max_retries, timeout_s=TIMEOUT_S, **options)  # type: ignore[arg-type]
    return run(Context("ktx", Paths(home), chosen))


def remembered(home: Path) -> int | None:
    """Give what the next run takes for the most that fits."""
    fits: int | None = json.loads(Paths(home).flush_state.read_text())["batch_bytes"]
    return fits


def test_large_events_drain_over_a_slow_uplink_and_the_next_run_begins_with_what_went_through(
    home: Path, server: LocalPostHog
) -> None:
    """Halved until it goes through; then no request of any later run is too large. Every event arrives."""
    with slow_uplink(server.port, BYTES_PER_S) as way:
        url = f"http://127.0.0.1:{way.port}"
        uuids = large_events(home, url)
        runs = [one_run(home)]
        while runs[-1].remaining and len(runs) < 10:
            runs.append(one_run(home))
        assert (runs[-1].remaining, runs[-1].result) == (0, Result.DELIVERED)
        assert uuids <= {event["uuid"] for event in server.events()}
        fits = remembered(home)
        assert fits is not None
        assert fits < EVENTS * 2 * NOISE_BYTES
        server.clear()
        uuids = large_events(home, url)
        assert one_run(home).remaining == 0
        sizes = [sum(len(json.dumps(event)) for event in request.content["batch"]) for request in server.requests]
        assert max(sizes[:2]) <= max(fits, 2 * NOISE_BYTES + 2_000)
        assert uuids <= {event["uuid"] for event in server.events()}


def test_over_a_fast_uplink_batches_grow_again(home: Path, server: LocalPostHog) -> None:
    """Each that goes through quickly lets twice as much into the next."""
    large_events(home, server.url, 40)
    run(Context("ktx", Paths(home), Options(max_events=1)))  # leaves a state
    state = Paths(home).flush_state
    state.write_text(json.dumps({**json.loads(state.read_text()), "batch_bytes": 100_000}))
    server.clear()
    assert flush_json(home, "run")["remaining"] == 0
    sizes = [len(request.content["batch"]) for request in server.requests]
    assert sizes[0] == 1
    assert len(sizes) < 10
    assert (remembered(home) or 4_000_000) > 1_000_000


@needs_openssl
def test_under_tls_an_upload_that_trickles_is_given_up_as_well(home: Path, tmp_path: Path) -> None:
    """There each part of a body has a timeout of its own: without a limit for the whole, no batch became smaller."""
    with https(certificate(tmp_path, "IP:127.0.0.1")) as (url, bodies), slow_uplink(
        int(url.rpartition(":")[2]), BYTES_PER_S
    ) as way:  # fmt: skip
        large_events(home, f"https://127.0.0.1:{way.port}")
        env = {**os.environ, "SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
        report = run(Context("ktx", Paths(home), Options(max_retries=3, timeout_s=TIMEOUT_S), env=env))
        for _ in range(10):
            if report.remaining:
                report = run(Context("ktx", Paths(home), Options(force=True, timeout_s=TIMEOUT_S), env=env))
        assert report.remaining == 0
        assert len(bodies) > 1
        assert remembered(home) is not None


def test_an_event_that_takes_longer_than_a_batch_may_has_the_time_it_needs(home: Path, server: LocalPostHog) -> None:
    """It can't be halved: it goes through in more than the timeout, and does not keep the others from leaving."""
    with slow_uplink(server.port, BYTES_PER_S) as way:
        uuids = large_events(home, f"http://127.0.0.1:{way.port}", 1, 3 * NOISE_BYTES * 2)
        reports = [one_run(home, max_retries=0) for _ in range(3)]
    assert reports[-1].remaining == 0
    assert uuids <= {event["uuid"] for event in server.events()}


@pytest.mark.parametrize("fault", [hang(60), status(408)])
def test_a_server_whose_patience_ends_first_gets_less_at_once(fault: object, home: Path, server: LocalPostHog) -> None:
    """408, or no answer in time: the next request holds half as much; the first good answer is enough to go on."""
    large_events(home, server.url, 8, 500)
    server.misbehave(fault, fault)  # type: ignore[arg-type]
    report = one_run(home)
    assert (report.result, report.remaining) == (Result.DELIVERED, 0)
    sizes = [len(request.content["batch"]) for request in server.requests]
    assert sizes[0] == 9
    assert sizes[0] > sizes[1] > sizes[2]


def test_a_run_that_is_out_of_time_in_the_middle_of_an_upload_remembers_to_send_less(
    home: Path, server: LocalPostHog
) -> None:
    """A schedule whose runs are shorter than the timeout gets its events delivered all the same."""
    with slow_uplink(server.port, BYTES_PER_S) as way:
        large_events(home, f"http://127.0.0.1:{way.port}")
        reports = [one_run(home, max_seconds=1.0)]
        while reports[-1].remaining and len(reports) < 30:
            reports.append(one_run(home, max_seconds=1.0))
    assert reports[0].result is Result.TOLD_TO_STOP
    assert reports[-1].remaining == 0
