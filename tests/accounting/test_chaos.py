"""Guarantees 2, 3 and 7 while server, network and kills do what they want; and what a poisonous event costs."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from spool import Telemetry
from tests.support.captures import spool_events
from tests.support.local_posthog import (
    Answer,
    LocalPostHog,
    accept_then_hang,
    accept_then_reset,
    half,
    hang,
    html,
    json_body,
    redirect,
    reset,
    slow,
)
from tests.support.local_posthog import (
    status as answer,
)
from tests.support.processes import KEY, environment, flush_json, status

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)

SEED = 20261123
ROUNDS, LONGEST_S = 60, 20.0
EVENTS_PER_ROUND = 80

# The flusher as a process of its own, forked where everything is imported: a start costs 10 ms, not 500.
_FORKER = """
import json, os, sys
import flusher.cli, flusher.delivery.wire, flusher.delivery.drain
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
while order := sys.stdin.readline():
    child = os.fork()
    if child == 0:
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["ktx-flush", *json.loads(order)]
        try:
            flusher.cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextmanager
def flushers(log: Path) -> Iterator[Any]:
    """Give a function that runs one flusher, kills it after so many seconds, and gives its exit code."""
    with subprocess.Popen(
        [sys.executable, "-c", _FORKER, str(log)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forker:
        orders, answers = forker.stdin, forker.stdout
        assert orders is not None
        assert answers is not None

        def run(arguments: list[str], kill_after_s: float | None) -> int:
            orders.write(json.dumps(arguments) + "\n")
            orders.flush()
            child = int(answers.readline())
            if kill_after_s is not None:
                time.sleep(kill_after_s)
                with suppress(ProcessLookupError):  # it was faster
                    os.kill(child, signal.SIGKILL)
            return int(answers.readline())

        yield run
        orders.close()


def any_answer(rng: random.Random) -> Answer:
    """Make up what the server does to one request. It never says PostHog's 200 for what it has not stored."""
    bodies = ["", "no", "[1]", "null", '{"status": "fine"}', "<html>", "\x00\xff", '{"status": "Ok"}']
    code = rng.randrange(200, 600)
    headers = {"Retry-After": rng.choice(["0", "1", "soon", "-5", "9e9"])} if rng.random() < 0.3 else {}
    if rng.random() < 0.5:
        return answer(code, rng.choice(bodies[:-1] if code == 200 else bodies), headers)
    return rng.choice(
        [
            *(reset(), half(), html(), accept_then_reset(), accept_then_reset(), redirect("http://127.0.0.1:9/")),
            *(hang(3.0), accept_then_hang(3.0), slow(0.1), answer(413), answer(400), answer(422)),
            *(accept_then_reset(), json_body(503, {"status": "Ok"})),
        ]
    )


def options(rng: random.Random) -> list[str]:
    """Make up how one flusher is called."""
    size, seconds = rng.choice([1, 7, 50, 200, 500]), round(rng.uniform(0.1, 0.8), 2)
    return ["--force", "--batch-size", str(size), "--max-seconds", str(seconds), "--max-retries", str(rng.randrange(2))]


def test_chaos_loses_nothing(home: Path, server: LocalPostHog, capsys: pytest.CaptureFixture[str]) -> None:
    """Random answers, resets, hangs and kills; healed, every event is delivered or a dead letter with its reason."""
    rng = random.Random(SEED)
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    uuids: list[str] = []
    culprits: set[str] = set()
    codes: Counter[int] = Counter()
    log, deadline = home.parent / "log", time.monotonic() + LONGEST_S
    with flushers(log) as run_flusher:
        for number in range(ROUNDS):
            receipts = [telemetry.capture("scan_completed", {"n": n}) for n in range(EVENTS_PER_ROUND)]
            assert all(receipts)
            uuids += [str(receipt.uuid) for receipt in receipts]
            if number % 10 == 0:
                culprits.add(uuids[-1])
                server.reject(uuids[-1], rng.choice([400, 413, 422]))
            server.behave()
            server.misbehave(*(any_answer(rng) if rng.random() < 0.5 else slow(0.0) for _ in range(rng.randrange(8))))
            kill_after_s = rng.uniform(0.0, 0.4) if rng.random() < 0.5 else None
            codes[run_flusher(["--home", str(home), "run", *options(rng)], kill_after_s)] += 1
            if time.monotonic() > deadline:
                break
        telemetry.close()
        server.behave()
        while status(home)["pending"]:
            assert run_flusher(["--home", str(home), "run", "--force"], None) in (0, 3)
    assert set(codes) <= {0, 3, 75, -signal.SIGKILL}, log.read_text()
    told, letters = status(home), flush_json(home, "list", "--dead")["dead"]
    dead = {letter["event"]["uuid"]: letter for letter in letters}
    copies: dict[str, set[str]] = {}
    for event in server.accepted:
        copies.setdefault(event["uuid"], set()).add(event["timestamp"])
    account = told["accounting"]
    with capsys.disabled():
        sys.stdout.write(
            f"\nchaos: {sum(codes.values())} flushers, {codes[-signal.SIGKILL]} killed, {len(server.requests)}"
            f" requests, {len(server.duplicates())} equal copies; {account}\n"
        )
    missing = set(uuids) - copies.keys() - dead.keys()
    assert missing == set()
    assert culprits <= dead.keys()
    assert culprits.isdisjoint(copies)
    assert all(len(timestamps) == 1 for timestamps in copies.values())
    assert all("rejected with" in letter["reason"] for letter in dead.values())
    assert (account["captured"], account["pending"], account["lost"]) == (len(uuids) + 1, 0, 0)
    assert (account["dead"], account["delivered"]) == (len(dead), len(uuids) + 1 - len(dead))


@pytest.mark.parametrize("culprits", [1, 5])
def test_culprits_are_isolated_in_logarithmic_requests(
    culprits: int, home: Path, server: LocalPostHog, capsys: pytest.CaptureFixture[str]
) -> None:
    """In 500 events each culprit costs at most two requests per halving; all others arrive in the same run."""
    uuids = spool_events(home, server.url, 499)  # and install_first_run
    for uuid in random.Random(SEED).sample(uuids, culprits):
        server.reject(uuid)
    report = flush_json(home, "run", "--batch-size", "500")
    with capsys.disabled():
        sys.stdout.write(f"\n{culprits} culprits in 500 events: {report['requests']} requests\n")
    assert (report["exit_code"], report["delivered"], report["rejected"]) == (3, 500 - culprits, culprits)
    assert report["requests"] <= 2 * math.ceil(math.log2(500)) * culprits + 1
    assert len(server.accepted) == 500 - culprits


@pytest.mark.parametrize("code", [400, 413])
def test_a_culprit_that_stands_alone_costs_one_request(code: int, home: Path, server: LocalPostHog) -> None:
    """A single event that is rejected is not asked about again; its answer is the reason."""
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    telemetry.capture("before")
    flush_json(home)
    server.clear()
    receipt = telemetry.capture("poison")
    telemetry.close()
    server.reject(str(receipt.uuid), code)
    report = flush_json(home)
    assert (report["exit_code"], report["rejected"], report["requests"]) == (3, 1, 1)
    (letter,) = flush_json(home, "list", "--dead")["dead"]
    assert letter["reason"] == f"rejected with {code}: event rejected"
    assert flush_json(home)["requests"] == 0
    assert len(server.requests) == 1


def test_a_batch_that_is_too_large_is_halved_until_it_fits(home: Path, server: LocalPostHog) -> None:
    """A 413 for the size of the whole is nobody's fault: all events arrive, none is dead."""
    spool_events(home, server.url, 200)
    server.max_body_bytes = 20_000
    report = flush_json(home)
    assert (report["exit_code"], report["delivered"], report["rejected"]) == (0, 201, 0)
    assert max(len(request.uuids) for request in server.requests if request.status == 200) > 10
