"""Node spools as Python does: the same install, the same consent, and nothing lost that was acknowledged."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flusher.report.status import collect
from spool import Telemetry
from spool.beside import aside
from spool.catalogue import COMMON
from spool.consent import consent, read_stored
from spool.home import Paths, resolve_home
from spool.settings import VERSION
from tests.support.local_posthog import LocalPostHog
from tests.support.mounts import NEEDS_EXT4, NEEDS_ROOT, cut_power, make_image, mounted_image, tmpfs
from tests.support.processes import KEY, ROOT, SILENT, acknowledged, environment, flush_json, start_python

if sys.platform == "win32":
    pytest.skip("processes are killed and stopped here by POSIX signals", allow_module_level=True)

NODE = shutil.which("node")
DOOR = ROOT / "scripts" / "node"
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node on this machine")

ID = "0b9f8c1e-5a3f-4a63-9c1c-0a1d2e3f4a5b"
WIKI = {"queryLength": 12, "resultCount": 3, "durationMs": 41.5, "outcome": "ok"}
HEAD = f"""
import fs from "node:fs";
import {{ Telemetry }} from "{(DOOR / "spool.mjs").as_uri()}";
const [home, host] = process.argv.slice(1);
const door = new Telemetry({{ app: "ktx", version: "1.2.3", projectKey: "{KEY}", home, host, maxEvents: 1e9 }});
"""


def start_node(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Node process on `code`, after HEAD, its output piped."""
    return subprocess.Popen(
        [str(NODE), "--input-type=module", "--eval", HEAD + code, *map(str, arguments)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_node(code: str, *arguments: object, given: str = "") -> str:
    """Run `code` in a Node process to its good end; gives its stdout."""
    with start_node(code, *arguments) as process:
        out, err = process.communicate(given, timeout=60)
    assert process.returncode == 0, err
    return out


def test_the_doors_own_tests_pass() -> None:
    """By Node's own runner."""
    command = [str(NODE), "--test", "--test-reporter=tap", str(DOOR / "spool.test.mjs")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "\n# fail 0\n" in done.stdout
    assert "\n# tests 0\n" not in done.stdout


# -- the same event -----------------------------------------------------------------------------------------


def test_an_event_of_node_and_one_of_python_are_alike(home: Path, server: LocalPostHog) -> None:
    """One install, one numbering, ktx's catalogue, the same fields in the same order; only the runtime differs."""
    run_node("""door.capture("wiki_query_completed", JSON.parse(fs.readFileSync(0)), { groups: { project: "0f" } });""",
             home, server.url, given=json.dumps(WIKI))  # fmt: skip
    telemetry = Telemetry("ktx", "1.2.3", KEY, server.url, home, flush="never")
    telemetry.capture("wiki_query_completed", WIKI, groups={"project": "0f"})
    telemetry.close()
    left = json.loads(Paths(home).destination.read_text())
    Paths(home).destination.write_text(json.dumps({**left, "catalogue": "ktx"}))
    report = flush_json(home)
    assert (report["exit_code"], report["rejected"], report["delivered"]) == (0, 0, 3)
    by_python, first, by_node = server.accepted
    assert first["event"] == "install_first_run"
    assert {event["distinct_id"] for event in server.accepted} == {first["uuid"]}
    assert list(by_node) == list(by_python)
    assert sorted(by_node["properties"]) == sorted(by_python["properties"])
    apart = {name for name in by_node["properties"] if by_node["properties"][name] != by_python["properties"][name]}
    assert apart == {"nodeVersion", "runtime", "spool_sequence"}
    assert set(COMMON) <= set(by_node["properties"])
    assert by_node["properties"]["$lib_version"] == VERSION
    assert [len(event["timestamp"]) for event in server.accepted] == [27] * 3
    assert (home / "spool").stat().st_mode & 0o777 == 0o700


# -- the same rules -----------------------------------------------------------------------------------------

SOUND = {"installId": ID, "enabled": True, "createdAt": "2026-01-02T03:04:05.678Z"}
FIELDS: dict[str, list[Any]] = {
    "installId": [None, 5, [ID], ID.upper(), ID[:-1], f"{ID}\n", f"{{{ID}}}", "0b9f8c1e-5a3f-9a63-9c1c-0a1d2e3f4a5b",
                  "0b9f8c1e-5a3f-4a63-cc1c-0a1d2e3f4a5b", "00000000-0000-0000-0000-000000000000"],
    "enabled": [None, 0, 1, "true", []],
    "createdAt": [None, 5, "", {}],
    "noticeShownAt": [None, 5, ""],
    "noticeShownVersion": [None, True, "1", 1.0, 1.5, -1, 0, 10**30, 2**53 - 1, 2**53, []],
}  # fmt: skip
FILES: dict[str, bytes] = {
    "sound": json.dumps(SOUND).encode(),
    "a number beyond all": json.dumps({**SOUND, "noticeShownVersion": 0}).encode().replace(b"0}", b"1e400}"),
    "off": json.dumps({**SOUND, "enabled": False}).encode(),
    "all five": json.dumps({**SOUND, "noticeShownAt": "x", "noticeShownVersion": 1}).encode(),
    "blanks around it": f"\n {json.dumps(SOUND)}\t\r\n".encode(),
    "a key twice": json.dumps(SOUND).replace("{", '{"enabled": false, ').encode(),
    "a mark": b"\xef\xbb\xbf" + json.dumps(SOUND).encode(),
    "UTF-16": json.dumps(SOUND).encode("utf-16"),
    "no UTF-8": json.dumps(SOUND).encode().replace(b"2026", b"\xff\xff"),
    "a control character": json.dumps(SOUND).encode().replace(b"2026", b"\x01"),
    "a comma too many": json.dumps(SOUND).encode().replace(b"}", b",}"),
    "text after it": json.dumps(SOUND).encode() + b"x",
    "just small enough": json.dumps(SOUND).encode().ljust(64 * 1024),
    "too large": json.dumps(SOUND).encode().ljust(64 * 1024 + 1),
    "deep": b"[" * 60_000,
    "nothing": b"",
    "null": b"null",
    "array": b"[]",
    "text": b'"text"',
    "number": b"5",
    "another key": json.dumps({**SOUND, "more": 1}).encode(),
    "a key of every object": json.dumps({**SOUND, "constructor": 1}).encode(),
    "__proto__": json.dumps({**SOUND, "__proto__": {}}).encode(),
    **{f"without {name}": json.dumps({key: SOUND[key] for key in SOUND if key != name}).encode() for name in SOUND},
    **{
        f"{name} is {value}": json.dumps({**SOUND, name: value}).encode()
        for name, values in FIELDS.items()
        for value in values
    },
}
VALUES = ("", " ", "0", " 0\t", "00", "false", "FALSE", "False ", "1", "true", "no", "off", "f", "-0", "\x1f", "\u00e9")
# A shell makes each kind of home, in a folder of its own.
HOMES = {
    "not there": "",
    "empty": "mkdir home",
    "a file": "touch home",
    "a link to a folder": "ln -s . home",
    "a link to nothing": "ln -s nothing home",
    "a link to itself": "ln -s home home",
    "below a file": "cd ..; rmdir 'below a file'; touch 'below a file'",
    "a folder for the file": "mkdir -p home/telemetry.json",
    "a pipe for the file": "mkdir home; mkfifo home/telemetry.json",
    "a link to nothing for the file": "mkdir home; ln -s nothing home/telemetry.json",
    "a link to a sound file": "mkdir home; ln -s ../../file0/telemetry.json home",
    "another user's": "mkdir home; chown 65534 home",
    "below another user's": "chown 65534 .",
    "not to be entered": "mkdir -m 600 home",
    "everybody's": "mkdir -m 777 home",
    "everybody's, each his own": "mkdir -m 1777 home",
    "everybody's, with a file": "mkdir -m 777 home; cp ../file0/telemetry.json home",
    "a group's": "mkdir -m 775 home",
    "a file that everybody may write": "mkdir home; cp ../file0/telemetry.json home; chmod 666 home/telemetry.json",
    "a file that a group may write": "mkdir home; cp ../file0/telemetry.json home; chmod 664 home/telemetry.json",
    "another user's file": "mkdir home; cp ../file0/telemetry.json home; chown 65534 home/telemetry.json",
    "another user's link to a file": "mkdir home; ln -s ../../file0/telemetry.json home; chown -h 65534 home/*",
    "another user's link": "ln -s ../file0 home; chown -h 65534 home",
}
# All in one process: it changes its environment for each.
ASK = """
const answers = [];
for (const [home, env] of JSON.parse(fs.readFileSync(0))) {
  for (const name of SILENT) delete process.env[name];
  Object.assign(process.env, env);
  const { installId, enabled, decidedBy } = new Telemetry({ app: "ktx", version: "1", home }).identity;
  answers.push([installId, enabled, decidedBy]);
}
console.log(JSON.stringify(answers));
"""


def test_identity_and_consent_are_decided_as_python_decides_them(tmp_path: Path) -> None:
    """Every file, every variable's value, every kind of home: the same id, the same answer, the same rule."""
    cases: list[tuple[str | None, dict[str, str]]] = []
    for number, content in enumerate(FILES.values()):
        (tmp_path / f"file{number}").mkdir()
        (tmp_path / f"file{number}" / "telemetry.json").write_bytes(content)
        cases.append((str(tmp_path / f"file{number}"), {}))
    sound = cases[0][0]
    for name in ("KTX_TELEMETRY_DISABLED", "DO_NOT_TRACK", "CI"):
        cases += [(sound, {name: value}) for value in VALUES]
    cases.append((sound, {"CI": "1", "DO_NOT_TRACK": "1", "KTX_TELEMETRY_DISABLED": "0"}))
    for kind, script in HOMES.items():
        if "chown" in script and os.geteuid() != 0:
            continue
        (tmp_path / kind).mkdir()
        subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path / kind, check=True, timeout=10)
        cases.append((str(tmp_path / kind / "home"), {}))
    named = str(tmp_path / "file0")
    cases += [(None, {"KTX_HOME": value}) for value in (named, f"{named}/../file0/", "", " ", "x" * 500, "~", "/")]
    cases += [(None, {"HOME": value}) for value in (str(tmp_path), "", "relative", "/nowhere", f"{tmp_path}/user/..")]
    shutil.copytree(tmp_path / "file0", tmp_path / ".ktx")
    given = json.dumps(cases)
    answers = json.loads(run_node(f"const SILENT = {list(SILENT)};" + ASK, tmp_path, "", given=given))
    assert len(answers) == len(cases)
    for (home, env), answer in zip(cases, answers, strict=True):
        world = {**environment(), **env}
        found = resolve_home("ktx", home, world)
        identity = consent("ktx", Paths(found) if found else None, world).identity
        assert (home, env, *identity) == (home, env, *answer)
    assert {rule for _id, _enabled, rule in answers} >= {
        "CI", "DO_NOT_TRACK", "KTX_TELEMETRY_DISABLED", "first run", "home not usable", "telemetry.json",
        "unreadable telemetry.json",
    }  # fmt: skip


# -- the first run ------------------------------------------------------------------------------------------

FIRST = 'const { state } = door.capture("scan_completed"); if (state !== "aside") throw state; '
PYTHON_FIRST = """
import sys
from spool import Telemetry
assert Telemetry("ktx", "1.2.3", "phc_test", sys.argv[2], sys.argv[1], flush="never").capture("scan_completed")
"""


def test_first_runs_of_both_at_once_give_one_id_one_notice_and_one_event(home: Path, server: LocalPostHog) -> None:
    """Eight of Node and eight of Python: the analyst sees one install."""
    runs = [start(code, home, server.url) for _ in range(8) for start, code in ((start_node, FIRST),
            (start_python, PYTHON_FIRST))]  # fmt: skip
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 16, said
    assert sum("anonymous usage data" in err for err in said) == 1
    assert flush_json(home)["exit_code"] == 0
    events = [event["event"] for event in server.accepted]
    assert (events.count("install_first_run"), events.count("scan_completed")) == (1, 16)
    assert len({event["distinct_id"] for event in server.accepted}) == 1
    assert sorted(path.name for path in home.iterdir()) == ["spool", "telemetry.json"]


@pytest.mark.parametrize(("step", "when"), [("linkSync", "before"), ("linkSync", "after"), ("renameSync", "after")])
def test_a_first_run_of_node_that_is_killed_anywhere_is_counted_once(
    step: str, when: str, home: Path, server: LocalPostHog
) -> None:
    """Before the id is published nothing happened; after it, the flusher completes what was begun."""
    real = "real(...names);" if when == "after" else ""
    cut = f'const real = fs.{step}; fs.{step} = (...names) => {{ {real} process.kill(process.pid, "SIGKILL"); }};'
    with start_node(cut + FIRST, home, server.url) as killed:
        killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    run_node(FIRST, home, server.url)
    flush_json(home)
    assert sorted(event["event"] for event in server.accepted) == ["install_first_run", "scan_completed"]
    assert len({event["distinct_id"] for event in server.accepted}) == 1
    assert collect("ktx", Paths(home), {}).account.captured == 2


# -- kill -9 ------------------------------------------------------------------------------------------------

PROCESSES = 200
AT_ONCE = 5
# Says each acknowledged uuid on a pipe, unbuffered: what is read there was acknowledged before the kill.
WRITER = """
for (let number = 0; ; number++) {
  const { state, uuid } = door.capture("scan_completed", { number });
  if (state === "aside") fs.writeSync(1, `${uuid}\\n`);
}
"""


def kill_some(home: Path, url: str, rng: random.Random) -> list[str]:
    """Start processes at once, kill each at a moment of its own; gives what they had acknowledged."""
    running = [start_node(WRITER, home, url) for _ in range(AT_ONCE)]
    said: list[str] = []
    for process in running:
        assert process.stdout is not None
        if rng.random() < 0.9:  # the others are killed wherever they are: before the first event, in the first run
            select.select([process.stdout], [], [], 30.0)  # not a line: what is buffered here would be missing below
            time.sleep(rng.random() * 0.003)
        process.kill()
        out, err = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, err
        said += acknowledged(out)
    return said


def test_two_hundred_node_processes_killed_at_random_lose_nothing_acknowledged(
    home: Path, server: LocalPostHog, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Every uuid that was said arrives; the rest, at most one of each process, was on its way."""
    rng = random.Random(8)
    promised = [uuid for _ in range(PROCESSES // AT_ONCE) for uuid in kill_some(home, server.url, rng)]
    report = flush_json(home)
    assert (report["exit_code"], report["remaining"], report["rejected"]) == (0, 0, 0), report
    arrived = [event["uuid"] for event in server.accepted if event["event"] == "scan_completed"]
    record_testsuite_property("acknowledged by killed Node processes", len(promised))
    assert len(promised) > PROCESSES
    assert set(promised) - set(arrived) == set()
    assert len(arrived) == len(set(arrived))
    assert len(set(arrived) - set(promised)) <= PROCESSES
    told = collect("ktx", Paths(home), {})
    assert (told.account.losses, told.account.balanced, told.aside) == ({}, True, 0)
    assert sum(event["event"] == "install_first_run" for event in server.accepted) == 1


# -- disks --------------------------------------------------------------------------------------------------

FULL = """
const [states, ballast] = [[], `${home}/../ballast`];
const capture = () => states.push(door.capture("scan_completed").state);
capture();
const file = fs.openSync(ballast, "w");
for (const size of [65536, 1]) try { for (;;) fs.writeSync(file, "x".repeat(size)); } catch {}
for (let number = 0; number < 3; number++) capture();
fs.unlinkSync(ballast);
fs.closeSync(file);
capture();
console.log(states.join());
"""


@pytest.mark.root
@NEEDS_ROOT
def test_a_full_disk_costs_node_what_it_counts_and_nothing_else(tmp_path: Path, server: LocalPostHog) -> None:
    """Not one byte is free: each loss is noted by a name alone, nothing half-written arrives, and it heals."""
    with tmpfs(tmp_path / "disk", "8m") as disk:
        assert run_node(FULL, disk / "home", server.url) == "aside,lost,lost,lost,aside\n"
        assert [name.name[0] for name in Paths(disk / "home").aside.iterdir()].count(".") == 0
        assert flush_json(disk / "home")["exit_code"] == 0
        assert collect("ktx", Paths(disk / "home"), {}).account.losses == {"disk_full": 3}
    assert sum(event["event"] == "scan_completed" for event in server.accepted) == 2


POWER = """
const power = new Telemetry({ app: "ktx", version: "1", projectKey: "phc_test", home, host, durability: "power" });
for (let number = 0; number < 5; number++) console.log(power.capture("scan_completed").uuid);
fs.readFileSync(0); // stays until it is told to go: nothing is synced by its end
"""


@pytest.mark.root
@NEEDS_EXT4
def test_with_durability_power_an_event_of_node_survives_a_power_cut(tmp_path: Path, server: LocalPostHog) -> None:
    """What was acknowledged is on the device, from the first event of a fresh home on."""
    image = make_image(tmp_path / "image")
    with mounted_image(image, tmp_path / "disk") as disk, start_node(POWER, disk / "home", server.url) as process:
        assert process.stdout is not None
        promised = {process.stdout.readline().strip() for _ in range(5)}
        copy = cut_power(image, tmp_path / "copy")
        process.communicate("", timeout=30)
    with mounted_image(copy, tmp_path / "later") as disk:
        waiting = [json.loads(path.read_text()) for path in aside.files(Paths(disk / "home"))]
        assert promised - {event["uuid"] for event in waiting} == set()
        assert {event["distinct_id"] for event in waiting} == {read_stored(disk / "home/telemetry.json").install_id}
