"""An opt-out deletes everything that waits, whoever is at work meanwhile, and counts each event once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flusher.report.status import collect
from spool import Telemetry
from spool.beside.wipe import wipe_once
from spool.consent import consent, decide_for_all
from spool.errors import ConsentChangedError
from spool.home import Paths, write_new
from spool.queue import FileLock, Queue
from tests.support.local_posthog import LocalPostHog
from tests.support.local_posthog import status as answer
from tests.support.mounts import NEEDS_ROOT, remount, tmpfs
from tests.support.processes import KEY, environment, flush, flush_json, start_python, status
from tests.support.stoppable import go_on, stop, wait_until
from tests.support.strace import Nursery, attached, needs_strace

# In each event that waits, and in each file that could tell of one.
TEXT = "SOMETHING-THAT-WAITS"
# What may stay below spool/: none of it holds an event.
KEPT = {"queue", "queue.lock", "flush.lock", "flush.json", "destination.json", "launched", "reserve", "wiped"}


def message(name: str = TEXT, uuid: str | None = None) -> str:
    """An event as a program in another language leaves it."""
    fields = {"uuid": uuid or str(uuid4()), "event": name, "distinct_id": "d"}
    return json.dumps({**fields, "timestamp": "2026-11-30T12:00:00.000000Z", "properties": {"text": TEXT}})


def put_aside(paths: Paths, count: int) -> None:
    """Leave events aside."""
    paths.aside.mkdir(mode=0o700, exist_ok=True)
    for number in range(count):
        uuid = str(uuid4())
        (paths.aside / f"{number:020d}-{uuid}.json").write_text(message(uuid=uuid))


def captured(home: Path, url: str, count: int) -> None:
    """Capture some events, as a host."""
    telemetry = Telemetry("ktx", "1", KEY, url, home, flush="never")
    for _ in range(count):
        assert telemetry.capture(TEXT, {"text": TEXT})
    telemetry.close()


def say_no(home: Path) -> None:
    """Do what a person does with an editor: nothing is deleted by that."""
    decide_for_all(Paths(home), enabled=False)


def remains(home: Path) -> list[str]:
    """Name what is left of an event below the spool: in a name or in a file."""
    paths = (home / "spool").rglob("*")
    return [str(path) for path in paths if TEXT in path.name or (path.is_file() and TEXT.encode() in path.read_bytes())]


KILLED = """
import os, sys
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", sys.argv[1], flush="never")
with telemetry.command(["ktx", sys.argv[2]]):
    print("begun", flush=True)
    if sys.argv[3] == "killed":
        os._exit(9)
    sys.stdin.readline()
"""


# -- what is counted --------------------------------------------------------------------------------------------


def test_all_that_waits_is_counted_and_the_home_is_named(home: Path, server: LocalPostHog) -> None:
    """Pending and dead events, events aside, commands that were killed and one under way, losses that were noted."""
    paths = Paths(home)
    captured(home, server.url, 3)
    server.reject(next(iter(pending(paths))))
    server.always(answer(503))
    flush(home, "run", "--max-retries", "0")
    with closing(Queue(paths, wait_s=5)) as queue:
        assert queue.settle([], [(next(queue.gather()), "rejected")]) == 1
    put_aside(paths, 4)
    write_new(paths.aside / "1-2.disk_full.7.lost", b"")
    for name in ("scan", "ingest"):
        start_python(KILLED, home, name, "killed").communicate(timeout=60)
    with start_python(KILLED, home, "serve", "alive", stdin=subprocess.PIPE) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "begun\n"
        before = status(home)
        # Each host recovers what it finds dead: one of the two is in the queue by now.
        waits = before["pending"] + before["dead"] + before["open_spans"]
        done = flush(home, "disable")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert done.stdout == f"telemetry is off for {home}; deleted: {waits} events that waited\n"
        after = status(home)
        living.communicate("\n", timeout=60)
    assert after["losses"] == {"opted_out": waits, "disk_full": 7}
    assert (after["pending"], after["dead"], after["aside"], after["open_spans"]) == (0, 0, 0, 0)
    assert after["accounting"]["captured"] == before["accounting"]["captured"] + before["open_spans"] + 7
    assert status(home)["accounting"] == after["accounting"]
    assert remains(home) == []


def pending(paths: Paths) -> Iterator[str]:
    """Give the uuids of what is in the queue."""
    with closing(Queue(paths, wait_s=5)) as queue:
        yield from [json.loads(row.text)["uuid"] for row in queue.gather()]


def test_events_aside_are_counted_where_there_was_no_queue(home: Path, server: LocalPostHog) -> None:
    """As of a program in another language alone, which no flusher has met yet."""
    decide_for_all(Paths(home), enabled=True)
    Paths(home).spool.mkdir(mode=0o700)
    put_aside(Paths(home), 3)
    assert status(home)["accounting"]["captured"] == 3
    assert "deleted: 3 events" in flush(home, "disable").stdout
    assert status(home)["losses"] == {"opted_out": 3}
    assert remains(home) == []
    assert flush_json(home, "run", "--host", server.url)["result"] == "telemetry off"


@pytest.mark.parametrize("name", ["aside", "spans"])
def test_what_lies_behind_a_link_is_neither_counted_nor_deleted(
    name: str, home: Path, server: LocalPostHog, tmp_path: Path
) -> None:
    """Somebody's folder of JSON files, by whatever way it got there; the opt-out is carried out once."""
    captured(home, server.url, 1)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for number in range(7):
        (theirs / f"{number}.json").write_text("{}")
    shutil.rmtree(home / "spool" / name, ignore_errors=True)
    (home / "spool" / name).symlink_to(theirs)
    before = status(home)["accounting"]
    assert flush(home, "disable").returncode == 0
    after = status(home)["accounting"]
    assert after == {**before, "pending": 0, "lost": before["captured"]}
    telemetry = Telemetry("ktx", "1", KEY, server.url, home, flush="never")
    assert telemetry.capture(TEXT).state == "disabled"
    telemetry.close()
    assert flush_json(home)["result"] == "telemetry off"
    assert status(home)["accounting"] == after
    assert len(list(theirs.iterdir())) == 7


def test_what_was_absorbed_and_is_still_aside_is_counted_once(home: Path, server: LocalPostHog) -> None:
    """A flusher was killed between its commit and the removal of the files."""
    paths = Paths(home)
    captured(home, server.url, 1)
    put_aside(paths, 5)
    waiting = status(home)["accounting"]["captured"]
    with closing(Queue(paths, wait_s=5)) as queue:
        names = sorted(paths.aside.iterdir())[:3]
        queue.absorb({path.name: message() for path in names})
    assert f"deleted: {waiting} events" in flush(home, "disable").stdout
    told = status(home)
    assert (told["accounting"]["captured"], told["losses"]) == (waiting, {"opted_out": waiting})


WIPE = """
from pathlib import Path
import spool.beside.wipe, spool.queue, spool.queue.recovery, shutil
from spool.home import Paths

def wipe(home):
    paths = Paths(Path(home))
    yield
    spool.beside.wipe.wipe_once(paths, spool.consent.consent("ktx", paths, {}).signature)
"""


@pytest.mark.root
@needs_strace
def test_an_opt_out_that_is_killed_anywhere_counts_each_event_once(tmp_path: Path) -> None:
    """The next run does the rest."""
    kills = 0
    with Nursery(WIPE, tmp_path / "nursery.log") as nursery:
        for call in ("rename", "unlink", "unlinkat", "rmdir", "mkdir", "pwrite64", "ftruncate", "fsync", "flock"):
            for number in (1, 2, 3, 5, 8, 13):
                home = tmp_path / f"{call}-{number}"
                paths = Paths(home)
                captured(home, "http://127.0.0.1:9", 2)
                put_aside(paths, 3)
                waiting = collect("ktx", paths, {}).account.captured
                say_no(home)
                child, _ = nursery.child("wipe", home)
                with attached(child.pid, f"?{call}:signal=KILL:when={number}"):
                    child.go_on()
                killed = child.killed
                kills += killed
                wipe_once(paths, consent("ktx", paths, {}).signature)
                account = collect("ktx", paths, {}).account
                assert (account.captured, account.losses) == (waiting, {"opted_out": waiting}), (call, number)
                assert remains(home) == []
                assert {path.name for path in paths.spool.iterdir()} <= KEPT
                if not killed:
                    break
    assert kills >= 15


# -- what disable says ------------------------------------------------------------------------------------------


def test_while_the_queue_is_held_the_next_run_deletes_the_rest(home: Path, server: LocalPostHog) -> None:
    """It is off, and says so; no event's text stays beside the queue; in the end each is counted once."""
    paths = Paths(home)
    captured(home, server.url, 3)
    put_aside(paths, 4)
    (paths.aside / ".draft").write_text(TEXT)
    (paths.spool / "report.html").write_text(TEXT)
    waiting = status(home)["accounting"]["captured"]
    with FileLock(paths.queue_lock).held(5):
        done = flush(home, "disable")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert done.stdout.startswith(f"telemetry is off for {home}; the next run deletes what is left: ")
        assert {Path(path).parent.name for path in remains(home)} == {"queue"}
    assert flush_json(home)["result"] == "telemetry off"
    assert remains(home) == []
    told = status(home)
    assert (told["accounting"]["captured"], told["losses"]) == (waiting, {"opted_out": waiting})
    assert (told["pending"], told["aside"]) == (0, 0)


def test_a_wrong_app_does_not_look_like_success(tmp_path: Path) -> None:
    """There was no install, which is said, and the one that was meant is named, wherever its home is; it stays on."""
    user = tmp_path / "user"
    captured(user / ".ktx", "http://127.0.0.1:9", 1)
    (user / ".kube").mkdir()
    env = environment()
    for words in (("--app", "kxt"), ("--app", "kt"), ("--app", "KTX"), ("--home", str(user / ".ktx2"))):
        done = subprocess.run(
            [sys.executable, "-m", "flusher", *words, "disable"], env=env, capture_output=True, text=True, check=False
        )
        assert "where no install was found; there is one in " in done.stdout, done
        assert str(user / ".ktx") in done.stdout.partition("there is one in ")[2].split(), done
        assert ".kube" not in done.stdout
    assert status(user / ".ktx")["telemetry"]["enabled"] is True
    quiet = [sys.executable, "-m", "flusher", "--app", "kyx", "disable", "--quiet"]
    done = subprocess.run(quiet, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, str(user / ".ktx") in done.stderr) == ("", True)


def test_a_no_before_the_first_run_is_kept(home: Path) -> None:
    """It is written down, and nobody else is named who has another name."""
    done = flush(home, "disable")
    assert (done.returncode, done.stdout) == (0, f"telemetry is off for {home}, where no install was found\n")
    assert Telemetry("ktx", "1", home=home, flush="never").capture("a").reason == "telemetry.json"


@pytest.mark.root
@NEEDS_ROOT
def test_a_disable_that_fails_says_that_telemetry_stays_on(tmp_path: Path) -> None:
    """On a read-only disk: exit code 1, and nothing was deleted. `status` does not say that nothing waits."""
    with tmpfs(tmp_path / "disk") as disk:
        captured(disk / "home", "http://127.0.0.1:9", 2)
        remount(disk, "ro")
        done = flush(disk / "home", "disable")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "telemetry stays on (decided by telemetry.json)" in done.stderr
        assert "Read-only file system" in done.stderr
        told = flush_json(disk / "home", "status")
        assert (told["exit_code"], told["pending"], told["dead"], told["accounting"]) == (1, None, None, None)
        assert "Read-only file system" in told["problem"]
        assert "pending       not known" in flush(disk / "home", "status").stdout
        remount(disk, "rw")
        assert status(disk / "home")["pending"] == 3


# -- who is at work meanwhile -----------------------------------------------------------------------------------

ADDING: dict[str, Callable[[Queue], object]] = {
    "append": lambda queue: queue.append(message()),
    "append_all": lambda queue: queue.append_all([message(), message()]),
    "absorb": lambda queue: queue.absorb({"1.json": message()}),
    "absorb what is rejected": lambda queue: queue.absorb({}, {}, {"1.json": (message(), "reason")}),
    "close_spans": lambda queue: queue.close_spans({str(uuid4()): message()}, {}),
    "report_losses": lambda queue: queue.report_losses(lambda _losses: message()),
    "retry_dead": lambda queue: queue.retry_dead(queue.dead()),
}


@pytest.mark.parametrize("name", ADDING)
@pytest.mark.parametrize("before", ["a file", "no file"])
def test_nothing_that_adds_an_event_does_after_an_opt_out(name: str, before: str, home: Path) -> None:
    """Asked inside the transaction: the queue is as it was. And nothing is in the way where nobody said no."""
    paths = Paths(home)
    if before == "a file":
        decide_for_all(paths, enabled=True)
    asked = consent("ktx", paths, {})
    assert asked.identity.enabled
    with closing(Queue(paths, wait_s=5, consent=asked.signature)) as queue:
        queue.append(message())
        queue.settle([], [(next(queue.gather()), "rejected")])
        queue.count_lost("invalid")
        account = queue.account()
        decide_for_all(paths, enabled=False)
        with pytest.raises(ConsentChangedError):
            ADDING[name](queue)
        assert queue.account() == account
        queue.consent = consent("ktx", paths, {}).signature
        ADDING[name](queue)
        assert queue.account() != account


def many(paths: Paths, count: int) -> None:
    """Leave events aside and dead commands: what a flusher takes in at the beginning of a run."""
    put_aside(paths, count)
    paths.spans.mkdir(mode=0o700, exist_ok=True)
    for _ in range(20):
        uuid = str(uuid4())
        (paths.spans / f"{uuid}.json").write_text(message("command", uuid))


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("how", ["disable", "editor"])
def test_an_opt_out_while_a_flusher_absorbs_leaves_nothing(
    how: str, share: float, home: Path, server: LocalPostHog
) -> None:
    """It is stopped in the middle, whatever it holds then; after it went on and after a yes, nothing old is sent."""
    paths, count = Paths(home), 1_500
    captured(home, server.url, 1)
    many(paths, count)
    waiting = status(home)["accounting"]["captured"]
    server.always(answer(503))
    run = start_python("from flusher.cli import main; main()", "--home", home, "run", "--json", "--max-retries", "0")
    wait_until(lambda: run.poll() is not None or len(os.listdir(paths.aside)) < count * (1 - share))
    stop(run)
    if how == "disable":
        assert flush(home, "disable").returncode == 0
    else:
        say_no(home)
    go_on(run)
    out, err = run.communicate(timeout=60)
    assert (json.loads(out)["result"], err) == ("telemetry off", "")
    assert remains(home) == []
    told = status(home)
    assert (told["pending"], told["aside"], told["open_spans"]) == (0, 0, 0)
    assert told["accounting"]["captured"] in range(waiting, waiting + 21)
    assert set(told["losses"]) == {"opted_out"}
    server.behave()
    flush(home, "enable")
    captured(home, server.url, 1)
    assert flush_json(home, "run", "--force")["delivered"] == 1
    assert len(server.accepted) == 1


def test_an_opt_out_during_an_import_leaves_nothing(home: Path, server: LocalPostHog) -> None:
    """It reads from a pipe: some thousand events, then somebody says no, then the rest."""
    captured(home, server.url, 1)
    code = "from flusher.cli import main; main()"
    with start_python(code, "--home", home, "import", "-", "--json", stdin=subprocess.PIPE) as run:
        assert run.stdin is not None
        run.stdin.write("".join(message() + "\n" for _ in range(800)))
        run.stdin.flush()
        wait_until(lambda: collect("ktx", Paths(home), {}).account.pending > 500)
        assert flush(home, "disable").returncode == 0
        out, err = run.communicate("".join(message() + "\n" for _ in range(800)), timeout=60)
    assert (run.returncode, err) == (0, "")
    assert json.loads(out)["imported"] in range(500, 1_600)
    assert remains(home) == []
    assert status(home)["pending"] == 0


def test_a_flusher_goes_on_where_the_file_says_yes_again(home: Path, server: LocalPostHog) -> None:
    """`enable` rewrites the file in the middle of a run: it is asked again, and everything arrives."""
    paths = Paths(home)
    captured(home, server.url, 1)
    many(paths, 1_500)
    run = start_python("from flusher.cli import main; main()", "--home", home, "run", "--json")
    wait_until(lambda: run.poll() is not None or len(os.listdir(paths.aside)) < 1_200)
    stop(run)
    assert flush(home, "enable").returncode == 0
    go_on(run)
    out, _err = run.communicate(timeout=120)
    assert json.loads(out)["remaining"] == 0
    assert len(server.events()) == 1_522


# An opt-out, by the file alone, at the moment at which a file gets a name in this folder.
AT_THE_NAME = """
import os, sys
from pathlib import Path
folder, home = sys.argv[3], Path(sys.argv[1])
def opt_out(event, arguments):
    if event == "os.rename" and Path(os.fspath(arguments[1])).parent.name == folder and not said:
        said.append(True)
        identity = home / "telemetry.json"
        identity.write_bytes(identity.read_bytes().replace(b"true", b"false"))
said = []
from spool import Telemetry
telemetry = Telemetry("ktx", "1", "phc_test", sys.argv[2], home, flush="never")
assert telemetry.capture("before")
sys.addaudithook(opt_out)
"""
NAMED = {
    "aside": """
from spool.queue import FileLock
with FileLock(telemetry.paths.queue_lock).held(5):
    receipt = telemetry.capture("SOMETHING-THAT-WAITS")
print(receipt.state, receipt.reason)
""",
    "spans": """
with telemetry.command(["ktx", "SOMETHING-THAT-WAITS"]):
    print(*os.listdir(telemetry.paths.spans))
    os._exit(9)
""",
}


@pytest.mark.parametrize("folder", NAMED)
def test_a_file_that_gets_its_name_while_somebody_says_no_goes(folder: str, home: Path, server: LocalPostHog) -> None:
    """The question is asked again when the name stands."""
    with start_python(AT_THE_NAME + NAMED[folder], home, server.url, folder) as run:
        out, err = run.communicate(timeout=60)
    assert "Traceback" not in err
    assert out.strip() == ("disabled telemetry.json" if folder == "aside" else "")
    assert remains(home) == []


def test_a_report_that_is_written_while_somebody_says_no_goes(home: Path, server: LocalPostHog) -> None:
    """It holds every event that waits. The command says why there is none."""
    pytest.importorskip("jinja2")
    code = AT_THE_NAME + "\nsys.argv[1:] = ['--home', str(home), 'report']\nfrom flusher.cli import main; main()"
    with start_python(code, home, server.url, "spool") as run:
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, ""), err
    assert "telemetry was switched off meanwhile" in err
    assert not Paths(home).report_page.exists()


def test_an_export_that_is_written_while_somebody_says_no_is_not_finished(home: Path, server: LocalPostHog) -> None:
    """To a pipe that somebody reads slowly it can't be taken back; a file gets no name."""
    captured(home, server.url, 1)
    code = """
import sys
from flusher.commands import export_import
from spool.consent import decide_for_all
real = export_import.export_events
def export(paths, queue, target):
    decide_for_all(paths, enabled=False)
    return real(paths, queue, target)
export_import.export_events = export
from flusher.cli import main; main()
"""
    with start_python(code, "--home", home, "export", home / "events.ndjson") as run:
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "")
    assert "no file was written" in err
    assert not any(home.glob("*events*"))


def test_what_comes_after_an_opt_out_goes_at_the_next_run(home: Path, server: LocalPostHog) -> None:
    """A program that asked just before leaves a file aside; the opt-out was carried out already."""
    captured(home, server.url, 1)
    assert flush(home, "disable").returncode == 0
    lost = status(home)["losses"]["opted_out"]
    for runner in (lambda: flush_json(home), lambda: Telemetry("ktx", "1", home=home, flush="never").capture("a")):
        put_aside(Paths(home), 2)
        runner()
        lost += 2
        assert remains(home) == []
        assert status(home)["losses"] == {"opted_out": lost}


@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--send")])
def test_doctor_asks_the_server_nothing_after_an_opt_out(
    words: tuple[str, ...], home: Path, server: LocalPostHog
) -> None:
    """Somebody says no while it loads what it needs for a request: the question is asked again right before."""
    captured(home, server.url, 1)
    code = """
import sys
from pathlib import Path
identity, moment = Path(sys.argv[2]) / "telemetry.json", sys.argv.pop(1)
def opt_out(event, arguments):
    if event == "import" and arguments[0] == moment and not said:
        said.append(True)
        identity.write_bytes(identity.read_bytes().replace(b"true", b"false"))
said = []
from flusher.cli import main
sys.argv.insert(1, "--home")
sys.addaudithook(opt_out)
try:
    main()
finally:
    assert said
"""
    with start_python(code, "posthog", home, *words) as run:
        out, err = run.communicate(timeout=60)
    assert (server.requests, err) == ([], ""), out
    assert not any(Paths(home).spool.glob("doctor-*"))


# -- what there can be --------------------------------------------------------------------------------------------


def everything(home: Path, server: LocalPostHog) -> None:
    """Fill a spool with everything that the programs leave there, by them, and with what killed ones leave."""
    paths = Paths(home)
    captured(home, server.url, 4)
    start_python(KILLED, home, TEXT, "killed").communicate(timeout=60)
    server.always(answer(400, f"no such event: {TEXT}"))
    flush(home, "run", "--max-retries", "0")
    put_aside(paths, 2)
    (paths.aside / f"{TEXT}.json").write_text(TEXT)
    server.always(answer(503, TEXT))
    flush(home, "run", "--max-retries", "0", "--force")
    put_aside(paths, 2)
    flush(home, "report")
    paths.quarantine.mkdir(mode=0o700, exist_ok=True)
    for name in ("queue.new", "queue.wiped-0a1b", "doctor-0a1b", "quarantine/20261130", TEXT):
        folder = paths.spool / name
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "cache.db").write_text(TEXT)
    for name in ("report.html", "flush.log", "flush.json", "emitted.json", "losses.log", "destination.json", "reserve"):
        (paths.spool / f".{name}.77.0a1b2c3d").write_text(TEXT)
    (paths.aside / ".draft").write_text(TEXT)
    (paths.aside / f".first-run-{uuid4()}.json").write_text(TEXT)
    (paths.aside / f"1-2.{TEXT.lower().replace('-', '_')}.7.lost").write_text(TEXT)
    paths.spans.mkdir(mode=0o700, exist_ok=True)
    (paths.spans / f".{TEXT}").write_text(TEXT)
    (paths.spool / "something-else").write_text(TEXT)
    for path in (paths.emitted, paths.losses_log, paths.flush_log):
        path.write_text(TEXT)
    state: dict[str, Any] = json.loads(paths.flush_state.read_text())
    paths.flush_state.write_text(json.dumps({**state, "reason": TEXT}))


@pytest.mark.parametrize("who", ["disable", "flusher", "host"])
def test_no_file_below_the_spool_tells_of_an_event_after_an_opt_out(who: str, home: Path, server: LocalPostHog) -> None:
    """Every kind of file that there can be; what stays is listed here, and when the last run was is still known."""
    everything(home, server)
    last = status(home)["last_attempt"]
    assert len(remains(home)) > 20
    if who != "disable":
        say_no(home)
    if who == "host":
        assert Telemetry("ktx", "1", home=home, flush="never").capture("a").reason == "telemetry.json"
    else:
        assert flush(home, "disable" if who == "disable" else "run").returncode == 0
    assert remains(home) == []
    assert {path.name for path in (home / "spool").iterdir()} <= KEPT
    told = status(home)
    assert (told["last_attempt"], told["reason"]) == (last, None)
    assert [path.name for path in home.iterdir() if path.name != "spool"] == ["telemetry.json"]


def test_a_file_that_can_not_be_deleted_is_named(home: Path, server: LocalPostHog) -> None:
    """Telemetry is off all the same; it is tried again at the next run."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root makes a file immutable")
    captured(home, server.url, 1)
    (home / "spool" / "report.html").write_text(TEXT)
    if subprocess.run(["chattr", "+i", home / "spool" / "report.html"], check=False, capture_output=True).returncode:
        pytest.skip("no immutable files on this file system")
    try:
        done = flush(home, "disable")
        assert done.returncode == 0
        assert f"the next run deletes what is left: {home / 'spool' / 'report.html'} can't be deleted" in done.stdout
    finally:
        subprocess.run(["chattr", "-i", home / "spool" / "report.html"], check=True)
    assert flush_json(home)["result"] == "telemetry off"
    assert remains(home) == []
