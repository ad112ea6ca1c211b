"""Real processes: a writer that tells what was acknowledged, and the flusher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Variables that decide about telemetry or about the network.
SILENT = (
    "CI",
    "DO_NOT_TRACK",
    "KTX_HOME",
    "KTX_TELEMETRY_DEBUG",
    "KTX_TELEMETRY_DISABLED",
    "KTX_TELEMETRY_ENDPOINT",
    "KTX_TELEMETRY_KEY",
    "KTX_TELEMETRY_STRICT",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
)
KEY = "phc_test"


def environment(**more: str) -> dict[str, str]:
    """Give this process's environment without what decides about telemetry, with the checkout importable."""
    kept = {name: value for name, value in os.environ.items() if name not in SILENT}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def start_python(
    code: str, *arguments: object, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a Python process on `code`, its output piped."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=dict(env or environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run_python(
    code: str, *arguments: object, env: Mapping[str, str] | None = None, timeout_s: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python process to its end; one that hangs is killed, with its children."""
    with start_python(code, *arguments, env=env, start_new_session=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def flush(
    home: Path, *arguments: object, env: Mapping[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `python -m flusher` on a home to its end; `run` unless the arguments name another command."""
    return subprocess.run(
        [sys.executable, "-m", "flusher", "--home", str(home), *map(str, arguments)],
        env=dict(env or environment()),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def flush_json(home: Path, *arguments: object, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the flusher with --json and give its report, with `exit_code` added."""
    done = flush(home, *(arguments or ("run",)), "--json", env=env)
    report: dict[str, Any] = json.loads(done.stdout)
    return {**report, "exit_code": done.returncode, "stderr": done.stderr}


def status(home: Path) -> dict[str, Any]:
    """Give `status --json`, after checking that its account adds up."""
    report = flush_json(home, "status")
    account = report["accounting"]
    assert account["captured"] == account["delivered"] + account["pending"] + account["dead"] + account["lost"]
    assert account["lost"] == sum(report["losses"].values())
    return report


# Captures until it is killed, and says each acknowledged uuid on a pipe, unbuffered: what is read there was
# acknowledged before the kill.
WRITER = """
import os, sys
from pathlib import Path
from spool import Telemetry
home, url, count, name = sys.argv[1:5]
telemetry = Telemetry("ktx", "1.2.3", "phc_test", url, Path(home), flush="never")
for number in range(int(count)):
    receipt = telemetry.capture("scan_completed", {"number": number, "writer": name})
    if receipt:
        os.write(1, f"{receipt.uuid} {receipt.state}\\n".encode())
    else:
        os.write(2, f"{receipt.state}: {receipt.reason}\\n".encode())
"""


def start_writer(
    home: Path, url: str, count: int = 1_000_000, name: str = "w", **options: Any
) -> subprocess.Popen[str]:
    """Start a writer process: one line `uuid state` on stdout for each acknowledged capture."""
    return start_python(WRITER, home, url, count, name, **options)


def acknowledged(output: str) -> list[str]:
    """Give the uuids of a writer's whole lines; a line that a kill cut off was not promised to anybody."""
    return [line.split()[0] for line in output.splitlines(keepends=True) if line.endswith("\n")]
