"""The measurements can be read by a program. How fast anything is, no test says: the machine decides that."""

import json
import subprocess
import sys

from tests.support.processes import ROOT, environment


def test_the_benchmark_tells_its_figures_as_one_json_object() -> None:
    """Each row has what is ours, the peer's, the ratio, the target and whether it is met; the machine is named."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), "--quick", "--json", "--only", "disk"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    told = json.loads(done.stdout)
    assert set(told) == {"machine", "rows", "growth", "missed"}
    assert set(told["machine"]) == {"processor", "cores", "system", "python", "sqlite", "load"}
    (row,) = told["rows"]
    assert set(row) == {"figure", "unit", "ours", "peer_name", "peer", "ratio", "target", "met", "note"}
    # Not fewer than the events themselves take, and not a queue without its index: bytes, not seconds.
    assert 420 < row["ours"] <= 600
    assert (row["met"], told["missed"], done.returncode) == (True, [], 0)
