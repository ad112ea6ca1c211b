"""What a person typed on the command line does not come back in what errors say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spool import Telemetry
from spool.exception.redaction import program_words, redact, typed_words
from tests.support.forks import run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush_json, run_python
from tests.support.ways import HEAD

# A command line, and the words to look for, beside those of the one before.
LINES: dict[str, set[str]] = {
    "ingest --json --dry-run": set(),
    "ingest orders.db": {"orders.db"},
    "ingest /srv/acme/orders.db": {"/srv/acme/orders.db", "acme", "orders.db"},
    "ingest --driver sqlite": {"sqlite"},
    "ingest --url=https://acme.example/api": {"https://acme.example/api", "https", "acme.example"},
    "ingest -phunter2 -q": {"-phunter2", "phunter2", "hunter2"},
    "ingest --hunter2 -- -secret": {"--hunter2", "hunter2", "ecret"},
    "ingest abc 12 x=y": set(),
}


@pytest.mark.parametrize("line", LINES)
def test_the_words_of_a_command_line_are_its_values_and_their_parts(line: str) -> None:
    """Not the names of commands and options; a word like an option's name with more than letters is a value."""
    assert typed_words(line.split(), {"ktx", "ingest"}) == LINES[line]


def test_a_sentence_is_looked_for_whole_and_word_by_word() -> None:
    """An argument may hold spaces; parts that are too short stay."""
    assert typed_words(["why is Ada's order late?"]) == {"why is Ada's order late?", "order", "late"}


# How an interpreter may be started, and the words that are for the program.
STARTS: dict[str, list[str]] = {
    "python": [],
    "python mycli.py": [],
    "python mycli.py one -m two": ["one", "-m", "two"],
    "python -X utf8 -W error -bb mycli.py one": ["one"],
    "python -Xutf8 -Werror -IPs mycli.py -c one": ["-c", "one"],
    "python --check-hash-based-pycs always mycli.py one": ["one"],
    "python -m mycli one two": ["one", "two"],
    "python -Im mycli one": ["one"],
    "python -mmycli one": ["one"],
    "python - one": ["one"],
    "python -c code one": [],
    "python -Ic code one": [],
    "": [],
}


@pytest.mark.parametrize("line", STARTS)
def test_the_words_for_the_program_are_known_by_how_it_was_started(line: str) -> None:
    """The interpreter's own options and the program's name are none of them."""
    assert program_words(line.split()) == STARTS[line]


WAYS: dict[str, Callable[[str], str]] = {
    "plain": lambda word: f"can't open {word}.",
    "key error": lambda word: str(KeyError(word)),
    "file": lambda word: str(FileNotFoundError(2, "No such file", f"/srv/data/{word}")),
    "JSON": lambda word: json.dumps({"table": word, "more": [word]}),
    "JSON in JSON": lambda word: json.dumps(json.dumps({"table": word})),
    "URL": lambda word: f"GET https://h/?name={quote(word, safe='')}&page=2 gave 404",
    "assignment": lambda word: f"bad option name={word}",
    "upper case": lambda word: f"NO SUCH TABLE: {word.upper()}" if word.isascii() else word,
}


# No word that looks like the name of an option.
VALUES = (
    st.text("abyzABYZ019_.-$%&'\"\\ü€ ", min_size=4, max_size=300)
    .map(lambda word: word.strip("- "))
    .filter(lambda word: len(word) > 3)
)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(word=VALUES)
def test_a_typed_word_is_found_in_every_spelling(way: str, word: str) -> None:
    """As it is, escaped, encoded, in other letters: nothing of four characters and more is left of it."""
    shown = redact(WAYS[way](word), typed=typed_words([word]))
    assert word.lower() not in shown.lower()
    assert json.dumps(word)[1:-1].lower() not in shown.lower()


def test_a_typed_word_goes_as_a_word_alone() -> None:
    """What merely holds it stays readable: the text is told to be understood."""
    typed = typed_words(["data", "lock"])
    text = "database is locked: data, my-data and 'DATA' of data_1"
    assert redact(text, typed=typed) == "database is locked: <redacted>, my-<redacted> and '<redacted>' of <redacted>_1"


def test_a_key_that_was_typed_does_not_hide_the_secret_behind_it() -> None:
    """The names that other rules go by are cut out last."""
    assert redact("password=rosebud", typed=typed_words(["password"])) == "<redacted>=<redacted>"


def test_thousands_of_typed_words_are_judged_or_nothing_is_shown() -> None:
    """A pattern of the shell may have named ten thousand files."""
    typed = typed_words([f"/srv/data/file-{number}.csv" for number in range(10_000)])
    assert redact("can't read /srv/data/file-77.csv: disk error", typed=typed) == "can't read <redacted>: disk error"
    everything = " ".join(f"/srv/data/file-{number}.csv" for number in range(100))
    assert redact(f"can't read {everything}", typed=typed) == "<redacted>"


HOST = """
import typer
from typing import Annotated
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def find(name: str, password: Annotated[str, typer.Option("-p")] = "", file: str = ""):
    try:
        if file: open(file)
        raise KeyError(name)
    except Exception as error:
        t.capture_exception(error)
        t.hide("plain-words")
        t.capture_exception(ValueError(f"{name} {password} plain-words"))
        raise
@app.command()
def other(): pass
"""
TYPED = ["acme-orders", "--file", "/srv/acme/missing-orders.csv", "-prosebud9"]
CASES = {
    "app": HOST + f"sys.argv[1:] = ['find', *{TYPED}]\nt.main(app)",
    "app with arguments": HOST + f"sys.argv[1:] = []\nt.main(app, ['find', *{TYPED}])",
    "plain": f"sys.argv[1:] = ['find', *{TYPED}]\nwith t.command(['ktx', 'find']): open(sys.argv[4])",
    "annotated": (
        f"sys.argv[1:] = {TYPED}\n"
        "with t.command(['ktx']) as span: span.annotate(outcome='error', error_detail=sys.argv[3])"
    ),
}


def test_what_was_typed_does_not_come_back_in_an_errors_text(home: Path, server: LocalPostHog) -> None:
    """By an app and by a plain host; in the command's event and in reports; the program's own names stay."""
    ended = run_forked(HEAD + "t.capture('x')\n", CASES, home, server.url)
    assert [done.code for done in ended.values()] == [1, 1, 1, 0]
    assert flush_json(home)["exit_code"] == 0
    sent = json.dumps(server.accepted)
    assert [word for word in ("acme", "orders", "missing", "rosebud", "plain-words") if word in sent] == []
    commands = [event["properties"] for event in server.accepted if event["event"] == "command"]
    told = [(fields["commandPath"], fields.get("errorClass"), fields["errorDetail"]) for fields in commands]
    missing = "[Errno 2] No such file or directory: '<redacted>'"
    assert told[:3] == [(["ktx", "find"], "FileNotFoundError", missing)] * 3
    assert told[3] == (["ktx"], None, "<redacted>")
    reports = [event["properties"]["$exception_list"] for event in server.accepted if event["event"] == "$exception"]
    assert [report[0]["value"] for report in reports] == [missing, "<redacted> <redacted> <redacted>"] * 2


FAILS = "raise ValueError(f'no table {word!r}: ' + word.upper())"
# What a host does with its command line before it fails; `word` is what the person typed.
TAKEN = {
    "popped": f"with t.command(['ktx', 'find']):\n    word = sys.argv.pop(1); {FAILS}",
    "popped before the command": f"word = sys.argv.pop(1)\nwith t.command(['ktx', 'find']): {FAILS}",
    "replaced": f"word = sys.argv[1]; sys.argv = ['other', 'words']\nwith t.command(['ktx', 'find']): {FAILS}",
    "cut": f"with t.command(['ktx', 'find']):\n    word = sys.argv[1]; del sys.argv[:]; {FAILS}",
    "gone": f"word = sys.argv[1]; del sys.argv\nwith t.command(['ktx', 'find']): {FAILS}",
    "no list": f"word = sys.argv[1]; sys.argv = 5\nwith t.command(['ktx', 'find']): {FAILS}",
    "set later": (
        "word = 'zqsecondzq'; sys.argv[1:] = [word, None, 7]\n"
        f"with t.command(['ktx', 'find']):\n    sys.argv[1:] = []; {FAILS}"
    ),
    "parsed from a list": (
        "import argparse; parser = argparse.ArgumentParser(); parser.add_argument('--table')\n"
        "parser.add_argument('--more', nargs='*'); word = 'zqlistzq'\n"
        "asked = parser.parse_args(['--table', word, '--more', 'zqmorezq'])\n"
        "with t.command(['ktx', 'find'], vars(asked)): word += ' of zqmorezq'; " + FAILS
    ),
    "given to main": (
        "import click\n@click.command()\n@click.argument('word')\ndef find(word): given.clear(); " + FAILS + "\n"
        "given = ['zqgivenzq']\nt.main(find, given)"
    ),
    "reported": f"word = sys.argv.pop(1)\ntry: {FAILS}\nexcept ValueError as error: t.capture_exception(error)",
    "redacted": "word = sys.argv.pop(1)\nprint(t.redacted(f'no table {word}'))",
}


# The person's command line, then what a host does first.
MADE = """
url, home, sys.argv[1:] = sys.argv[2], sys.argv[1], ["zqtypedzq"]
t = Telemetry("ktx", "1", "phc_test", url, home, flush="never")
"""


def test_what_was_typed_is_known_from_the_first_moment(home: Path, server: LocalPostHog) -> None:
    """Whatever the host does to `sys.argv`, and also what never stood there; in every text that is told of errors."""
    ended = run_forked(HEAD, {name: MADE + code for name, code in TAKEN.items()}, home, server.url)
    assert {name: done.code for name, done in ended.items() if done.code != 1} == {"reported": 0, "redacted": 0}
    assert [name for name, done in ended.items() if "SyntaxError" in done.err or "NameError" in done.err] == []
    assert ended["redacted"].out == "no table <redacted>\n"
    assert flush_json(home)["exit_code"] == 0
    sent = json.dumps(server.accepted)
    assert [word for word in ("typed", "second", "list", "more", "given") if f"zq{word}zq" in sent.lower()] == []
    commands = [event["properties"]["errorDetail"] for event in server.accepted if event["event"] == "command"]
    assert commands == ["no table '<redacted>': <redacted>"] * 7 + [
        "no table '<redacted> of <redacted>': <redacted> OF <redacted>",
        "no table '<redacted>': <redacted>",
    ]


PROGRAM = """
import sys
word = sys.argv.pop(1)  # long before anybody asks for telemetry
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", flush="never")
print(t.redacted(f"no table {word} of zqcanaryzq.py"))
"""


@pytest.mark.parametrize("started", [["{}.py"], ["-X", "utf8", "{}.py"], ["-m", "{}"]])
def test_what_was_typed_is_known_although_telemetry_came_later(started: list[str], tmp_path: Path) -> None:
    """The interpreter remembers how it was started; the program's own name is no word of the person's."""
    (tmp_path / "zqcanaryzq.py").write_text(PROGRAM)
    command = [sys.executable, *(word.format("zqcanaryzq") for word in started), "acme-orders"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("no table <redacted> of zqcanaryzq.py\n", "")


def test_a_host_that_runs_for_months_remembers_a_bounded_number_of_words(home: Path) -> None:
    """The last ones: a daemon begins a command for each request."""
    telemetry = Telemetry("ktx", "1", home=home, flush="never")
    host = telemetry._host  # noqa: SLF001 - what is kept is nobody's to see
    for number in range(3):
        host.note_typed(f"word-{number}-{one}" for one in range(6_000))
    assert len(host.typed) == 10_000
    assert telemetry.redacted("no word-2-5999 and no word-0-1") == "no <redacted> and no word-0-1"


def test_the_values_of_the_apps_own_variables_are_hidden_as_what_was_typed_is(tmp_path: Path) -> None:
    """A command line may take its values from there; also when the host has removed the variable meanwhile."""
    code = """
import os
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", "http://127.0.0.1:9", flush="never")
del os.environ["KTX_TABLE_2"]
os.environ["KTX_TABLE"] = "acme-orders"
print(t.redacted("no table 'acme-orders' for zq-token-zq, nor ZQ-TOKEN-ZQ, of $OTHER"))
"""
    done = run_python(code, env=environment(KTX_TABLE_2="zq-token-zq", OTHER="no table"), cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("no table '<redacted>' for <redacted>, nor <redacted>, of $OTHER\n", "")
