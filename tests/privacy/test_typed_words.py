"""What a person typed on the command line does not come back in what errors say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spool.exception.redaction import redact, typed_words
from tests.support.forks import run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import flush_json
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
