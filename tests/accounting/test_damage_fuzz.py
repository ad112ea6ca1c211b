"""Whole files damaged at random, by numbered seeds: true receipts, the run's exit code, an account that adds up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import ROOT, environment

# For more of them, or one that failed: python -m tests.support.damage_fuzz FIRST LAST --keep
SEEDS, PARTS = 320, 8
# A seed takes a tenth of a second. What hangs is named by the last seed that was printed.
HANG_S = 600


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS // PARTS))
def test_whatever_bytes_change_in_the_queues_files_everything_goes_on(first: int) -> None:
    """Database, log and index: flipped, cut, swapped, foreign; closed, left by a killed process, open in a host."""
    last = first + SEEDS // PARTS
    command = [sys.executable, "-m", "tests.support.damage_fuzz", str(first), str(last)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG_S, check=False
        )
    except subprocess.TimeoutExpired as hang:
        pytest.fail(f"a hang: {hang.stdout!r}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
