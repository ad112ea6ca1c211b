"""When a schedule runs, and the words in which cron, systemd and launchd are told: no machine needed."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import subprocess
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flusher.schedule import cron as crontab
from flusher.schedule import systemd as units
from flusher.schedule.launchd import plist
from flusher.schedule.timetable import Entry, Timetable, check_words, entry_name, parse_every
from spool.errors import ConfigurationError

ALL_HOURS, ALL_MINUTES = tuple(range(24)), tuple(range(60))

# What --every says, in minutes.
EVERY = {"1m": 1, "2m": 2, "5m": 5, "15m": 15, "30m": 30, "60m": 60, "1h": 60, "2h": 120, "6h": 360, "24h": 1440}
NOT_EVERY = [
    "0",
    "0m",
    "0h",
    "7x",
    "7m",
    "45m",
    "90m",
    "5h",
    "25h",
    "48h",
    "1d",
    "15",
    "m",
    "",
    "-5m",
    "1.5h",
    "\uff11\uff15m",
]

# Interpreter, home: places that somebody really has, or that mean something to a shell, to cron or to systemd.
ODD = {
    "plain": ("/usr/bin/python3", "/home/me/.ktx"),
    "spaces": ("/opt/my tools/bin/python", "/home/me and you/.ktx"),
    "quotes": ("/opt/it's/python", '/home/"me"/.ktx'),
    "percent": ("/opt/100%/python", "/home/%h/%%/.ktx"),
    "dollar": ("/opt/$HOME/python", "/home/${HOME}/$$/.ktx"),
    "hash": ("/opt/a #b/python", "/home/me # ktx-flush schedule x/.ktx"),
    "backslash": (r"/opt/a\b/python", r"/home/c\d/.ktx"),
    "semicolon": ("/opt/a;b/python", "/home/`id`;|&<>*?[a]~!/.ktx"),
    "umlaut": ("/opt/größe/python", "/home/日本/.ktx"),
}


def entry(python: str, home: str, every_min: int = 15, seed: str = "an install id") -> Entry:
    """Give what would be installed there."""
    command = (python, "-I", "-m", "flusher", "--app", "ktx", "--home", home, "run", "--quiet")
    return Entry(entry_name("ktx", Path(home)), "ktx", command, Timetable.spread(every_min, seed))


@pytest.mark.parametrize("text", EVERY)
def test_every_is_minutes_or_hours_that_cron_can_express(text: str) -> None:
    """And the timetable made of it says the same."""
    every_min = parse_every(text)
    assert every_min == EVERY[text]
    said = Timetable.spread(every_min, "x").every
    assert said is not None
    assert parse_every(said) == every_min


@pytest.mark.parametrize("text", NOT_EVERY)
def test_what_cron_cannot_express_is_refused_with_what_it_can(text: str) -> None:
    """One line that names what was given and what could be."""
    with pytest.raises(ConfigurationError, match=r"15m.*6h") as refusal:
        parse_every(text)
    assert "--every" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_minute_follows_from_the_install_and_spreads_a_fleet() -> None:
    """The same install strikes at the same minute always; 6,000 of them strike at each minute of the day's cycle."""
    assert Timetable.spread(15, "a") == Timetable.spread(15, "a")
    minutes = Counter(Timetable.spread(15, str(number)).minutes[0] for number in range(6_000))
    assert set(minutes) == set(range(15))
    assert max(minutes.values()) < 2 * min(minutes.values())
    starts = Counter((one.hours[0], one.minutes[0]) for one in (Timetable.spread(360, str(n)) for n in range(6_000)))
    assert len(starts) == 360


# Minutes, hours, how often, cron's first two fields.
TABLES: dict[str, tuple[tuple[int, ...], tuple[int, ...], str | None, tuple[str, str]]] = {
    "each minute": (ALL_MINUTES, ALL_HOURS, "1m", ("*", "*")),
    "a quarter of an hour": ((7, 22, 37, 52), ALL_HOURS, "15m", ("7,22,37,52", "*")),
    "each hour": ((0,), ALL_HOURS, "1h", ("0", "*")),
    "six hours": ((5,), (2, 8, 14, 20), "6h", ("5", "2,8,14,20")),
    "each day": ((59,), (23,), "24h", ("59", "23")),
    "uneven minutes": ((1, 2), ALL_HOURS, None, ("1,2", "*")),
    "uneven hours": ((1,), (3, 4), None, ("1", "3,4")),
    "minutes of some hours": ((0, 30), (0, 12), None, ("0,30", "0,12")),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_timetable_says_how_often_it_runs(name: str) -> None:
    """Also one that somebody changed by hand; where it is uneven, it says nothing."""
    minutes, hours, every, fields = TABLES[name]
    table = Timetable(minutes, hours)
    assert (table.every, table.fields) == (every, fields)


# Timetable, now, the next run.
NEXT = {
    "later in the hour": (((7, 22), ALL_HOURS), "2026-11-23 15:08:59", "2026-11-23 15:22"),
    "not in this minute again": (((7,), ALL_HOURS), "2026-11-23 15:07:00", "2026-11-23 16:07"),
    "tomorrow": (((7,), (3,)), "2026-11-23 03:07:01", "2026-11-24 03:07"),
    "next year": (((0,), (0,)), "2026-12-31 23:59:59", "2027-01-01 00:00"),
    "at once": ((ALL_MINUTES, ALL_HOURS), "2026-11-23 15:08:59", "2026-11-23 15:09"),
}


@pytest.mark.parametrize("name", NEXT)
def test_the_next_run_follows_from_the_clock(name: str) -> None:
    """The first minute after this one in which cron would start it."""
    (minutes, hours), now, expected = NEXT[name]
    found = Timetable(minutes, hours).next_after(datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(expected)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("every_min", [1, 15, 360])
def test_a_line_of_a_crontab_reads_back_as_what_was_meant(name: str, every_min: int) -> None:
    """Command and minutes, whatever the paths hold; one line, and no % that cron would take for a newline."""
    meant = entry(*ODD[name], every_min)
    line = crontab.line(meant)
    assert line.count(b"\n") == 1
    assert b"%" not in line.replace(rb"\%", b"")
    found = crontab.read_line(line)
    assert found is not None
    assert (found.name, found.command, found.timetable) == (meant.name, meant.command, meant.timetable)
    assert found.does(meant)


@pytest.mark.parametrize("path", [r"/opt/a\%b", r"/opt/a\\b"])
def test_backslashes_that_crons_disagree_about_are_refused(path: str) -> None:
    """Some take the backslash before them away, some don't."""
    with pytest.raises(ConfigurationError, match="backslashes"):
        crontab.line(entry(path, "/home/me"))


@pytest.mark.parametrize("word", ["a\nb", "a\rb", "a\tb", "\x1b[2J", "a\x7f", "\udcff"])
def test_control_characters_and_what_is_no_text_are_refused(word: str) -> None:
    """A newline in a path would be a line of its own in a crontab."""
    with pytest.raises(ConfigurationError, match="can't stand in a schedule"):
        check_words(("python", word))


# Lines that bear our mark, after somebody was at them; how often they run then, and what is said of them.
CHANGED = {
    "@hourly": (b"@hourly /py -m flusher # ktx-flush schedule ktx-1\n", "1h", None),
    "a step": (b"*/10 * * * * /py # ktx-flush schedule ktx-1\n", "10m", None),
    "tabs, and CR LF": (b"\t5\t*  * * *\t/py -m # ktx-flush schedule ktx-1\r\n", "1h", None),
    "uneven": (b"5,6 * * * * /py # ktx-flush schedule ktx-1\n", None, None),
    "mondays": (b"5 * * * 1 /py # ktx-flush schedule ktx-1\n", None, "not run every day"),
    "at boot": (b"@reboot /py # ktx-flush schedule ktx-1\n", None, "not run every day"),
    "no time": (b"x y z a b /py # ktx-flush schedule ktx-1\n", None, "don't read"),
    "an open quote": (b"5 * * * * '/py # ktx-flush schedule ktx-1\n", "1h", None),
    "nothing else": (b"5 # ktx-flush schedule ktx-1\n", None, "don't read"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_line_that_somebody_changed_is_read_as_it_is(name: str) -> None:
    """What can't be read of it is said, and nothing raises."""
    text, every, problem = CHANGED[name]
    found = crontab.read_line(text)
    assert found is not None
    assert (found.name, found.every) == ("ktx-1", every)
    assert (problem or "") in str(found.problem)


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"# 5 * * * * /py # ktx-flush schedule ktx-1\n", b"5 * * * * /py # ktx-flush\n", b"A=b\n", b"\xff\n"],
)
def test_other_lines_are_not_ours(text: bytes) -> None:
    """Also one of ours that somebody commented out: it doesn't run."""
    assert crontab.read_line(text) is None


LINES = st.lists(
    st.one_of(
        st.binary(max_size=20), st.sampled_from([b"# c", b'MAILTO="x"', b"A = b", b"  5 *\t* * * x  # y", b""])
    ).map(lambda line: line.replace(b"\n", b"") + b"\n"),
    max_size=8,
)


@given(LINES, st.sampled_from([b"", b"5 * * * * no newline", b"# no newline", b" "]))
@example([], b"")
def test_installing_and_removing_a_line_leaves_every_other_byte(lines: list[bytes], end: bytes) -> None:
    """Whatever a crontab holds; a second install changes nothing, and one by another timetable only our line."""
    before = b"".join(lines) + end
    first, other = (crontab.line(entry(*ODD["percent"], minutes)) for minutes in (15, 60))
    name = entry(*ODD["percent"]).name
    once = crontab.spliced(before, name, first)
    assert crontab.spliced(once, name, first) == once
    assert once.count(first) == 1
    assert once == b"".join(lines) + first + end
    changed = crontab.spliced(once, name, other)
    assert changed == once.replace(first, other)
    assert crontab.spliced(changed, name, None) == before
    assert crontab.spliced(once, "ktx-00000000", None) == once


@pytest.mark.parametrize("name", ODD)
def test_a_systemd_unit_reads_back_as_what_was_meant(name: str) -> None:
    """Every word quoted, % doubled, no substitution where there is a $."""
    meant = entry(*ODD[name])
    text = units.service(meant)
    assert units.read_exec_start(text) == meant.command
    start = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert start.startswith("ExecStart=:") == ("$" in str(meant.command))
    assert "%" not in start.replace("%%", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Its own check of both units is silent, and its calendar has the minutes that we meant."""
    paths = []
    for number, (name, (_python, home)) in enumerate(ODD.items()):
        python = tmp_path / name / ODD[name][0].strip("/")
        python.parent.mkdir(parents=True)
        python.symlink_to("/bin/true")
        meant = entry(str(python), home, seed=str(number))
        for end, text in ((".service", units.service(meant)), (".timer", units.timer(meant))):
            paths.append(tmp_path / f"ktx-flush-{number}{end}")
            paths[-1].write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "ktx-flush" in line] == []
    calendar = units.timer(entry(*ODD["plain"], 360)).split("OnCalendar=")[1].splitlines()[0]
    shown = subprocess.run(["systemd-analyze", "calendar", calendar], capture_output=True, text=True, check=False)
    minutes, hours = Timetable.spread(360, "an install id").fields
    times = ",".join(f"{int(hour):02}" for hour in hours.split(","))
    assert f"*-*-* {times}:{int(minutes):02}:00" in shown.stdout


@pytest.mark.parametrize("name", ODD)
def test_a_launchd_agent_reads_back_as_what_was_meant(name: str) -> None:
    """A property list that any reader takes, with every word as it was."""
    meant = entry(*ODD[name], 360)
    fields = plistlib.loads(plist(meant))
    assert tuple(fields["ProgramArguments"]) == meant.command
    assert fields["Label"] == f"ktx-flush.{meant.name}"
    runs = {(run["Hour"], run["Minute"]) for run in fields["StartCalendarInterval"]}
    assert runs == {(hour, minute) for hour in meant.timetable.hours for minute in meant.timetable.minutes}


def test_a_shell_reads_the_words_of_a_line_as_they_were() -> None:
    """What cron hands to sh after it took the backslashes from the %, sh splits as we meant."""
    for python, home in ODD.values():
        meant = entry(python, home)
        command = crontab.line(meant).decode().split(None, 5)[5].replace("\\%", "%")
        words = command.replace(shlex.quote(python), "printf '%s\\0'", 1)
        said = subprocess.run(["sh", "-c", words], capture_output=True, check=True).stdout
        assert tuple(said.decode().split("\0")[:-1]) == meant.command[1:]
