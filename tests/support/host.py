"""A host CLI that lives through a test: it captures when it is told to, and tells what it got."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from flusher.report.status import collect
from spool import Receipt
from spool.home import Paths
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import ROOT, environment, flush_json

# An empty line on stdin is a capture, any other line is Python. All that a capture imports is imported
# beforehand, by one in a home of its own: a test may take away the right to read the checkout. Stdout is left
# alone, so that a test sees what spool writes.
_CODE = """
import importlib, json, os, pkgutil, sys, tempfile, time
sys.path.insert(0, sys.argv[1])
import spool
for module in pkgutil.walk_packages(spool.__path__, "spool."):
    if not module.name.startswith(("spool.command.click_app", "spool.testing")):
        importlib.import_module(module.name)
from spool import Telemetry
with tempfile.TemporaryDirectory() as scratch:
    first = Telemetry("ktx", "1.2.3", home=scratch, flush="never")
    first.capture("scan_completed")
    first.close()
orders, answers = os.fdopen(int(sys.argv[2])), os.fdopen(int(sys.argv[3]), "w", buffering=1)
telemetry = Telemetry("ktx", "1.2.3", "phc_test", sys.argv[4], sys.argv[5] or None, flush="never")
more = {}
for order in orders:
    started = time.perf_counter()
    if order.strip():
        exec(order)
        receipt = None, None, None
    else:
        receipt = telemetry.capture("scan_completed", {"tableCount": 12} | more)
    answers.write(json.dumps([*receipt, time.perf_counter() - started]) + "\\n")
"""
# Gives up every right, for `Host.do`.
NOBODY = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
# A capture waits for nothing here; the machine may be busy.
LONGEST_S = 5.0


class Host:
    """A running host, for a `with` block: at its end it left with 0 and nothing on stdout."""

    def __init__(
        self,
        home: Path | str | None,
        url: str = "http://127.0.0.1:9",
        *,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        orders_out, orders = os.pipe()
        answers, answers_in = os.pipe()
        words = [ROOT, orders_out, answers_in, url, "" if home is None else home]
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-c", _CODE, *map(str, words)],
            env=environment() if env is None else dict(env),
            pass_fds=(orders_out, answers_in),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(orders_out)
        os.close(answers_in)
        self._orders, self._answers = os.fdopen(orders, "w", buffering=1), os.fdopen(answers)
        self.receipts: list[Receipt] = []
        self.longest_s = 0.0

    def capture(self) -> Receipt:
        """Let it capture one event."""
        state, uuid, reason, seconds = self._order("")
        receipt = Receipt(state, uuid, reason)
        self.receipts.append(receipt)
        self.longest_s = max(self.longest_s, seconds)
        return receipt

    def expect(self, count: int, *states: str, reason: str = "") -> None:
        """Capture `count` times; each receipt has one of the states, and the reason unless it is queued."""
        for _ in range(count):
            receipt = self.capture()
            assert receipt.state in states, receipt
            assert receipt.state == "queued" or reason in str(receipt.reason), receipt

    def do(self, code: str) -> None:
        """Let it run a line of Python."""
        self._order(code)

    def _order(self, line: str) -> list[Any]:
        self._orders.write(line + "\n")
        answer: list[Any] = json.loads(self._answers.readline() or "null")
        assert answer is not None, f"the host ended: {self.process.communicate()}"
        return answer

    @property
    def promised(self) -> set[str]:
        """The uuids that were said to be on disk."""
        return {receipt.uuid for receipt in self.receipts if receipt and receipt.uuid}

    def count(self, state: str) -> int:
        """How many receipts were so."""
        return sum(receipt.state == state for receipt in self.receipts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._orders.close()
        if kind is not None:
            self.process.kill()
        out, err = self.process.communicate(timeout=30)
        self._answers.close()
        if kind is None:
            assert (self.process.returncode, out) == (0, ""), err
            assert "Traceback" not in err, err
            assert self.longest_s < LONGEST_S


def all_arrive(home: Path, server: LocalPostHog, host: Host) -> dict[str, int]:
    """Flush with nothing but what the host left; every promise arrives. Gives the losses by cause."""
    report = flush_json(home, "run", "--force")
    assert (report["exit_code"], report["remaining"]) == (0, 0), report
    assert host.promised - {event["uuid"] for event in server.events()} == set()
    status = collect("ktx", Paths(home), {})
    assert status.problem is None
    assert status.account.balanced
    assert (status.account.delivered, status.account.pending) == (len(server.events()), 0)
    return status.account.losses
