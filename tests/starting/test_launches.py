"""A launch that comes to nothing is told; `flush` waits for a flusher at work, and what it says is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spool.errors import ConfigurationError
from spool.home import Paths
from spool.launch.program import Program
from tests.support.local_posthog import LocalPostHog, slow
from tests.support.local_posthog import status as answer
from tests.support.mounts import NEEDS_ROOT
from tests.support.processes import ROOT, environment, flush, flush_json, run_python, start_python, status
from tests.support.stoppable import wait_until

if sys.platform == "win32":
    pytest.skip("the ways to fail are those of POSIX", allow_module_level=True)

HOST = """
import os, sys
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv[2], sys.argv[1], flush_interval_s=0)
assert t.capture("scan_completed")
"""


def told(home: Path) -> str:
    """Wait until a launch has failed, and give what `status` and `doctor` say of it; both say the same."""
    wait_until(lambda: status(home)["launch_problem"])
    said = str(status(home)["launch_problem"])
    (found,) = [one for one in flush_json(home, "doctor")["findings"] if one["name"] == "launch"]
    assert (found["state"], said in found["what"]) == ("fail", True), found
    assert f"last launch   failed: {said}" in flush(home, "status").stdout
    return said


# -- a launch that fails ----------------------------------------------------------------------------------------


def test_a_library_that_is_not_installed_is_named_before_a_launch(
    home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """Looked for, not imported: no process is started in vain. With the library there it delivers."""
    for package in ("spool", "flusher"):
        (tmp_path / package).symlink_to(ROOT / package)
    for name in ("diskcache", "filelock", "msgspec"):
        module = __import__(name)
        (tmp_path / name).symlink_to(Path(str(module.__file__)).parent)
    python = Path(sys.executable).resolve()
    env = {**environment(), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [python, "-S", "-c", HOST, home, server.url], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert told(home) == "posthog is not installed where this program runs: install ktx-spool there"
    assert not (home / "spool" / "flush.log").exists()
    os.utime(Paths(home).launched, (0, 0))
    run_python(HOST, home, server.url)
    wait_until(lambda: len(server.accepted) == 3)
    assert status(home)["launch_problem"] is None


def test_a_flusher_that_dies_before_its_first_line_leaves_the_reason(
    home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """A library is there and broken: the last line of its traceback is told, until one is at work."""
    broken = tmp_path / "broken"
    (broken / "typer").mkdir(parents=True)
    (broken / "typer" / "__init__.py").write_text("raise ImportError('typer was built for another Python')")
    (broken / "app.py").write_text(HOST)
    for package in ("spool", "flusher"):
        (broken / package).symlink_to(ROOT / package)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    env = {**environment(), "PYTHONPATH": f"{broken}:{packages}"}
    words = [Path(sys.executable).resolve(), broken / "app.py", home, server.url]
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert told(home) == "ImportError: typer was built for another Python"
    assert server.accepted == []
    assert flush_json(home)["delivered"] == 2  # by a person, elsewhere: that says nothing of the host's world
    assert status(home)["launch_problem"] is not None
    os.utime(Paths(home).launched, (0, 0))
    run_python(HOST, home, server.url)
    wait_until(lambda: status(home)["launch_problem"] is None)


def test_a_flusher_that_was_killed_before_it_was_at_work_is_told(home: Path) -> None:
    """By the file that its host left empty, once it had the time to begin."""
    run_python(HOST.replace("flush_interval_s=0", 'flush="never"'), home, "http://127.0.0.1:9")
    errors = Paths(home).launch_errors
    errors.touch(0o600)
    assert status(home)["launch_problem"] is None
    os.utime(errors, (time.time() - 60,) * 2)
    assert "was killed before it was at work" in told(home)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link"])
def test_what_stands_in_the_place_of_the_reason_stops_no_launch(
    kind: str, home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """It goes to quarantine; where it can't, a launch does without a reason."""
    run_python(HOST.replace("flush_interval_s=0", 'flush="never"'), home, "http://127.0.0.1:9")
    place = Paths(home).launch_errors
    if kind == "a folder":
        place.mkdir()
    elif kind == "a pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "theirs")
    run_python(HOST, home, server.url)
    wait_until(lambda: len(server.accepted) >= 2)
    assert not (tmp_path / "theirs").exists()
    assert status(home)["launch_problem"] is None


@pytest.mark.parametrize("executable", ["None", "''", "'/usr/bin/env'", "'python3'"])
def test_python_inside_another_program_takes_the_interpreter_that_it_came_with(
    executable: str, home: Path, server: LocalPostHog
) -> None:
    """What such programs say of themselves: nothing, or their own path. A module without a spec is in no way."""
    code = f"import sys, types; sys.executable = {executable}; sys.modules['requests'] = types.ModuleType('requests')"
    run_python(f"{code}{HOST}print(t.flush(20))", home, server.url)
    wait_until(lambda: len(server.accepted) == 2)
    assert status(home)["launch_problem"] is None


def test_python_inside_another_program_without_an_interpreter_says_so(home: Path, server: LocalPostHog) -> None:
    """Nothing is started, and no method raises; cron does it."""
    code = "import sys; sys.executable = None; sys.prefix = sys.base_prefix = '/nowhere'"
    done = run_python(f"{code}{HOST}print(t.flush(20))", home, server.url)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert "run ktx-flush by cron" in told(home)
    assert server.accepted == []


def test_what_stands_beside_the_script_decides_nothing(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """Files that are called as what a flusher loads: the host's own folder is in front of its search path."""
    for name in ("flusher", "posthog", "requests", "typer"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    script = tmp_path / "host.py"
    script.write_text(HOST)
    words = [sys.executable, str(script), str(home), server.url]
    done = subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(server.accepted) == 2)
    assert not (tmp_path / "taken").exists()
    assert status(home)["launch_problem"] is None


def test_a_hosts_own_programs_are_not_called(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """A PATH that begins with the working folder: programs called as those that a launch needs stay where they are."""
    for name in ("sleep", "nice", "sh", "python", "python3", "env"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\n")
        (tmp_path / name).chmod(0o755)
    env = environment(PATH=f"{tmp_path}:.:{os.environ['PATH']}")
    assert run_python(HOST, home, server.url, env=env, cwd=tmp_path).returncode == 0
    wait_until(lambda: len(server.accepted) == 2)
    assert not (tmp_path / "called").exists()


# -- flush ------------------------------------------------------------------------------------------------------


def test_flush_waits_for_a_flusher_at_work_and_then_runs(home: Path, server: LocalPostHog) -> None:
    """The other one began before the last events were captured: True means that they have arrived too."""
    server.always(slow(1.0))
    code = (
        HOST
        + """
import subprocess
other = subprocess.Popen([sys.executable, "-m", "flusher", "--home", sys.argv[1], "run", "--force", "--quiet"])
import time
while not os.path.exists(sys.argv[1] + "/spool/flush.lock"): time.sleep(0.01)
time.sleep(0.8)
t.capture("ingest_completed")
print(t.flush(30), other.wait())
"""
    )
    done = run_python(code.replace("flush_interval_s=0", 'flush="never"'), home, server.url)
    assert done.stdout == "True 0\n", done.stderr
    assert len(server.accepted) == 3


def test_flush_says_no_where_something_is_left(home: Path, server: LocalPostHog) -> None:
    """A server that is down; a flusher that is at work for longer than one may wait; a second try says yes."""
    code = HOST.replace("flush_interval_s=0", 'flush="never"') + "print(t.flush(float(sys.argv[3])))"
    server.always(answer(503))
    assert run_python(code, home, server.url, 20).stdout == "False\n"
    server.always(slow(3.0))
    with start_python("from flusher.cli import main; main()", "--home", home, "run", "--force", "--quiet") as other:
        wait_until(lambda: len(server.requests) > 4)
        assert run_python(code, home, server.url, 0.5).stdout == "False\n"
        other.communicate(timeout=60)
    server.behave()
    assert run_python(code, home, server.url, 20).stdout == "True\n"


@pytest.mark.root
@NEEDS_ROOT
def test_in_a_container_whose_first_process_ends_right_after_flush_all_has_arrived(
    home: Path, server: LocalPostHog
) -> None:
    """The system kills whatever else runs there; each answer takes 4 s, and another flusher is at work."""
    run_python(HOST.replace("flush_interval_s=0", 'flush="never"'), home, server.url)
    server.always(slow(4.0))
    code = (
        HOST
        + """
import time
time.sleep(1.5)  # by now the flusher that the first capture started has sent what waited from before
receipts = [t.capture("ingest_completed") for _ in range(20)]
assert os.getpid() == 1
print(t.flush(60), all(receipts), flush=True)
os._exit(0)
"""
    )
    words = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, str(home), server.url]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    if "unshare" in done.stderr:
        pytest.skip(f"no namespace can be made here: {done.stderr.strip()}")
    assert done.stdout == "True True\n", done.stderr
    assert len(server.accepted) == 23
    runs = [json.loads(line) for line in Paths(home).flush_log.read_text().splitlines()]
    assert [run["started_by"] for run in runs] == ["host", "waiting host"]
    found = status(home)["accounting"]
    assert (found["delivered"], found["pending"]) == (23, 0)


@pytest.mark.parametrize("wait", ["float('nan')", "float('inf')", "-1", "0", "True"])
def test_flush_takes_any_number_for_a_time(wait: str, home: Path, server: LocalPostHog) -> None:
    """Less than nothing is nothing; a day is the most. It raises for none, and none is a launch that failed."""
    code = HOST.replace("flush_interval_s=0", 'flush="never"') + f"print(type(t.flush({wait})).__name__, t.flush(20))"
    done = run_python(code, home, server.url)
    assert done.stdout == "bool True\n", done.stderr
    assert status(home)["launch_problem"] is None


def test_flush_where_nothing_was_ever_captured_is_done_at_once_and_makes_nothing(
    home: Path, server: LocalPostHog
) -> None:
    """Nothing is left, so the answer is yes."""
    code = HOST.replace('assert t.capture("scan_completed")', "print(t.flush(20))")
    assert run_python(code, home, server.url).stdout == "True\n"
    assert not home.exists()


def test_a_run_of_a_hosts_flusher_that_is_not_configured_is_told(home: Path, server: LocalPostHog) -> None:
    """In the host's environment alone, so that nobody else meets it: by `status` and `doctor`, with the reason."""
    run_python(HOST, home, server.url, env=environment(HTTP_PROXY="socks5://127.0.0.1:1"))
    wait_until(lambda: status(home)["last_result"])
    found = status(home)
    assert (found["last_result"], found["pending"]) == ("not configured", 2)
    assert "HTTP_PROXY" in found["reason"]
    (told_by_doctor,) = [one for one in flush_json(home, "doctor")["findings"] if one["name"] == "flusher"]
    assert (told_by_doctor["state"], "HTTP_PROXY" in told_by_doctor["what"]) == ("fail", True)


def test_a_host_that_runs_from_a_checkout_delivers(home: Path, server: LocalPostHog, tmp_path: Path) -> None:
    """By `python -c` in its folder: there is no other place for the package."""
    for package in ("spool", "flusher"):
        (tmp_path / package).symlink_to(ROOT / package)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    env = {**environment(), "PYTHONPATH": packages}
    words = [str(Path(sys.executable).resolve()), "-c", HOST + "print(t.flush(20))", str(home), server.url]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


# -- what is no flusher, and what is told ---------------------------------------------------------------------------


def test_an_empty_mark_is_none(home: Path, server: LocalPostHog) -> None:
    """As a file of variables leaves it: the host does its own work."""
    done = run_python(HOST + "print('work')", home, server.url, env=environment(KTX_SPOOL_RUN=""))
    assert done.stdout == "work\n"


@pytest.mark.parametrize("name", ["posthog", "typer", "flusher"])
def test_a_script_that_is_called_as_a_module_of_the_flushers_is_not_run_again(
    name: str, home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """With the libraries on PYTHONPATH, behind the script's own folder."""
    layer, own = tmp_path / "layer", tmp_path / "own"
    layer.mkdir()
    own.mkdir()
    for package in ("spool", "flusher"):
        (layer / package).symlink_to(ROOT / package)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    note = f"open({str(tmp_path / 'runs')!r}, 'a').write(__name__ + chr(10))\n"
    (own / f"{name}.py").write_text(note + HOST)
    words = [str(Path(sys.executable).resolve()), str(own / f"{name}.py"), str(home), server.url]
    env = {**environment(), "PYTHONPATH": f"{layer}:{packages}"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(server.accepted) == 2)
    assert (tmp_path / "runs").read_text() == "__main__\n"


@pytest.mark.parametrize("name", ["pythonhost", "python3"])
def test_a_program_that_is_called_as_an_interpreter_is_not_started(
    name: str, home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """The host itself, or what stands on the PATH before Python: neither is where this Python is."""
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\n")
    program.chmod(0o755)
    run_python(f"import sys; sys.executable = {str(program)!r}{HOST}", home, server.url)
    wait_until(lambda: len(server.accepted) == 2)
    assert not (tmp_path / "called").exists()


def test_a_flusher_that_said_much_before_it_died_is_told(home: Path) -> None:
    """More than is read: then where it stands."""
    run_python(HOST.replace("flush_interval_s=0", 'flush="never"'), home, "http://127.0.0.1:9")
    Paths(home).launch_errors.write_text("a warning\n" * 10_000)
    said = str(status(home)["launch_problem"])
    assert "launch.err" in said
    (found,) = [one for one in flush_json(home, "doctor")["findings"] if one["name"] == "launch"]
    assert found["state"] == "fail"


def test_a_frozen_app_with_an_equals_sign_in_its_path_is_not_scheduled() -> None:
    """`env` would take it for a variable, do nothing, and say yes."""
    with pytest.raises(ConfigurationError, match="use another"):
        Program(["/opt/a=b/app"], {"KTX_SPOOL_RUN": "run"}).as_words()


def test_a_run_where_nothing_ever_was_names_the_home_that_is_there(home: Path, server: LocalPostHog) -> None:
    """A wrong word is no success without a word; an option behind the command is told to stand before it."""
    run_python(HOST.replace("flush_interval_s=0", 'flush="never"'), home, server.url)
    done = flush(home.with_name("homes"), "run")
    assert (done.returncode, "nothing was ever spooled" in done.stdout, str(home) in done.stdout) == (0, True, True)
    behind = flush(home, "run", "--app", "ktx")
    assert (behind.returncode, "--app belongs before the command" in behind.stderr) == (2, True)


def test_a_key_that_was_refused_is_never_well(home: Path, server: LocalPostHog) -> None:
    """By the answer of the last run, also where the server takes what doctor itself asks."""
    run_python(HOST.replace("flush_interval_s=0", 'flush="never"'), home, server.url)
    server.always(answer(401))
    assert flush(home, "run").returncode == 75
    server.behave()
    (found,) = [one for one in flush_json(home, "doctor")["findings"] if one["name"] == "flusher"]
    assert (found["state"], "destination refused" in found["what"]) == ("fail", True)


def test_a_launch_that_can_not_load_the_lock_loses_no_event(home: Path) -> None:
    """On a Python without sqlite3, in each of whose processes something waits from before."""
    for _ in range(3):
        done = run_python(
            f"import sys; sys.modules['_sqlite3'] = None{HOST}print(t.capture('x').state)", home, "http://x"
        )
        assert (done.returncode, done.stdout) == (0, "aside\n"), done.stderr
    assert status(home)["accounting"]["captured"] == 7
