"""Secrets stay on the machine: a canary in each position is looked for in the spool, the output and on the wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spool.home import Paths
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, run_python, start_python

# Never a part of anything that belongs there.
CANARY = "zqCanary4711"

# What errors say of secrets; {} is the secret.
TEXTS = {
    "url": "could not connect to postgres://admin:{}@db.example.com:5432/shop",
    "url user": "fatal: clone of https://{}@git.example.com/shop failed",
    "dsn": "bad dsn: host=db user=admin password={} dbname=shop",
    "option": "command failed: mysqldump --password {} shop",
    "option=": "command failed: mysqldump --password={} shop",
    "key option": "curl: --api-key {} is not accepted",
    "variable": "PGPASSWORD={} psql: connection refused",
    "json": '400: {{"apiKey": "{}", "model": "x"}}',
    "repr": "bad settings {{'password': '{}', 'host': 'db'}}",
    "token": "the request failed (token={})",
    "secret": "client_secret: {}",
    "header": "401 for Authorization: Bearer {}",
    "header pair": "headers: [('Authorization', 'Token {}')]",
    "basic": "header authorization=Basic {}",
    "bearer": "refused: Bearer {}",
    "cookie": "403, Cookie: session={}",
    "signed url": "GET https://s3.example.com/x?X-Amz-Credential=a&X-Amz-Signature={}&x=1",
    "sas url": "PUT https://a.blob.example.com/c?sv=2024&sig={}",
    "query": "GET https://example.com/?access_token={}&page=2 gave 500",
    "private key": "bad key -----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "environment": "KTX_PROFILE={} is no profile",
    "several lines": "first line\npassword: {}\nlast line",
}
# How a secret may be written: a plain word, and with signs that end words, quotes and addresses.
DRESSES = ("{}", "p$^{}!x", "a@{}", "{}%40{}", "x-{}-y")
# Names of persons and places, as errors say them.
NAMES = {
    "home": "[Errno 2] No such file or directory: '{home}/shop/ktx.yaml'",
    "home, escaped": "C:\\\\Users\\\\{user}\\\\ktx.yaml not found",
    "home of others": "permission denied: /home/{user}/.pgpass",
    "mac home": "permission denied: /Users/{user}/Library",
    "user": "role {user} does not exist",
    "mail": "no account {user}@example.com",
}

HOST = """
import json, os, sys
from pathlib import Path
from spool import Telemetry
plan = json.loads(sys.argv.pop(1))  # not typed by anybody: the words of the texts stay
t = Telemetry("ktx", "1", "phc_test", plan["url"], flush="never")
def run(text, kind=RuntimeError):
    try:
        with t.command(["ktx", "ingest"], plan["flags"], project=plan["project"]):
            raise kind(text)
    except kind as error:
        t.capture_exception(error)
for text in plan["texts"]:
    run(text)
run("odd class", type(plan["class"], (Exception,), {}))
secret = plan["flags"]["password"]
t.capture_exception(ValueError(f"plain words, {secret}, and no mark of a secret"), secrets=[secret])
with t.command(["ktx", "ingest"], plan["flags"], project=plan["project"]) as span:
    span.annotate(outcome="error", error_detail=plan["texts"][0])
t.capture("scan_completed", {"n": 1}, groups={"project": t.project_id(plan["project"])})
span = t.command(["ktx", "killed"], plan["flags"], project=plan["project"])
span.__enter__()
os._exit(9)
"""
# Commands that raise, one with an odd class, one annotated, one killed.
MORE = 3


def everywhere(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Give every name and every byte below a folder."""
    for path in folder.rglob("*"):
        yield f"name of {path}", str(path.relative_to(folder)).encode()
        if path.is_file():
            yield str(path), path.read_bytes()


def wire(server: LocalPostHog) -> Iterator[tuple[str, bytes]]:
    """Give every request, as sent and unpacked."""
    for request in server.requests:
        yield "head", f"{request.method} {request.path} {dict(request.headers)}".encode()
        yield "body", request.body
        yield "content", json.dumps(request.content, ensure_ascii=False).encode()


def told(place: str, done: subprocess.CompletedProcess[str]) -> list[tuple[str, bytes]]:
    """Give what a process printed."""
    return [(f"{place} stdout", done.stdout.encode()), (f"{place} stderr", done.stderr.encode())]


def leaks(found: Iterator[tuple[str, bytes]] | list[tuple[str, bytes]]) -> list[str]:
    """Name the places that hold a canary, with what stands around it."""
    return [f"{place}: ...{data[max(0, data.lower().find(CANARY.lower().encode()) - 80) :][:160]!r}"
            for place, data in found if CANARY.lower().encode() in data.lower()]  # fmt: skip


@pytest.fixture
def person(tmp_path: Path) -> dict[str, str]:
    """The environment of a person whose home, name and every variable is a canary."""
    home = tmp_path / f"{CANARY}-home"
    home.mkdir()
    names = ("AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "KTX_LLM_API_KEY", "PGPASSWORD", "HOSTNAME", "MY_SETTING", "PWD")
    return environment(HOME=str(home), USER=f"{CANARY}user", **dict.fromkeys(names, f"{CANARY}-variable"))


def plan(person: dict[str, str], url: str, texts: list[str]) -> str:
    """Say what the host shall do: flags with secret values and a project with a secret name too."""
    project = Path(person["HOME"]).parent / f"{CANARY}-project"
    project.mkdir(exist_ok=True)
    flags = {"password": CANARY, "url": f"postgres://u:{CANARY}@h/d", "tables": [CANARY], CANARY + "=1": True,
             "map": {CANARY: CANARY}}  # fmt: skip
    fields = {"url": url, "texts": texts, "flags": flags, "project": str(project), "class": f"password={CANARY}"}
    return json.dumps(fields)


def flusher(person: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ktx-flush` as that person, by the home of their own."""
    command = [sys.executable, "-P", "-m", "flusher", *arguments]
    return subprocess.run(command, env=person, capture_output=True, text=True, timeout=60, check=False)


def test_a_secret_in_an_error_a_flag_or_a_variable_reaches_neither_disk_nor_output_nor_wire(
    person: dict[str, str], server: LocalPostHog
) -> None:
    """22 shapes of text by 5 ways to write a secret, 6 of names, a killed command: looked for at each stage."""
    texts = [text.format(dress.replace("{}", CANARY)) for text in TEXTS.values() for dress in DRESSES]
    texts += [text.format(home=person["HOME"], user=person["USER"]) for text in NAMES.values()]
    host = run_python(HOST, plan(person, server.url, texts), env=person)
    assert (host.returncode, host.stderr.count("\n")) == (9, 1)
    spool = Paths(Path(person["HOME"]) / ".ktx").spool
    assert list(spool.glob("spans/*.json"))
    assert leaks([*everywhere(spool.parent), *told("host", host)]) == []
    runs = [flusher(person, *line.split()) for line in ("status", "status --json", "run --json", "run", "status")]
    assert [run.returncode for run in runs] == [0] * 5
    assert leaks([*everywhere(spool.parent), *wire(server), *(line for run in runs for line in told("run", run))]) == []
    commands = [event["properties"] for event in server.accepted if event["event"] == "command"]
    assert len(commands) == len(texts) + MORE
    assert sum(event["event"] == "$exception" for event in server.accepted) == len(texts) + 2
    assert all(fields["projectGroupAttached"] and fields["flagsPresent"]["password"] for fields in commands)
    details = [fields["errorDetail"] for fields in commands if fields.get("errorDetail", "odd class") != "odd class"]
    assert len(details) == len(texts) + 1
    marks = ("<redacted>", "<user>", "<email>", "~")
    assert [text for text in details if not any(mark in text for mark in marks)] == []


def test_debug_mode_shows_what_would_be_sent_and_no_more(person: dict[str, str], server: LocalPostHog) -> None:
    """Its lines are the same events: a terminal's log gets no secret either."""
    texts = [text.format(CANARY) for text in TEXTS.values()]
    host = run_python(HOST, plan(person, server.url, texts), env={**person, "KTX_TELEMETRY_DEBUG": "1"})
    assert host.stderr.count("[telemetry] ") == 2 * len(texts) + MORE + 2
    assert leaks(told("host", host)) == []


@pytest.mark.parametrize("variable", ["USER", "LOGNAME", "USERNAME", "SUDO_USER"])
def test_a_name_is_known_by_whichever_variable_holds_it(
    variable: str, person: dict[str, str], server: LocalPostHog
) -> None:
    """Minimal environments, cron, sudo and Windows tell the person's name in different ones."""
    env = {name: value for name, value in person.items() if name not in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    env[variable] = f"{CANARY}user"
    host = run_python(HOST, plan(person, server.url, [f"role {env[variable]} does not exist"]), env=env)
    spool = Paths(Path(person["HOME"]) / ".ktx").spool
    assert leaks([*everywhere(spool), *told("host", host)]) == []
    assert any(b"role <user> does not exist" in data for _place, data in everywhere(spool))


TYPED = """
import sys, typer
from typing import Annotated
from spool import Telemetry
t = Telemetry("ktx", "1", "phc_test", sys.argv.pop(1), flush="never")
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def work(name: str, password: str = "", count: int = 0):
    pass
@app.command()
def other():
    raise ValueError(f"could not connect to postgres://u:{sys.argv[-1]}@h/d")
@app.callback()
def root():
    pass
t.main(app)
"""
LINES = {
    "argument": ["work", CANARY],
    "option": ["work", "x", "--password", CANARY],
    "option=": ["work", "x", f"--password={CANARY}"],
    "wrong value": ["work", "x", "--count", CANARY],
    "unknown option": ["work", "x", f"--{CANARY}"],
    "unknown command": [CANARY],
    "too many": ["work", "x", CANARY],
    "failing": ["other", "--", CANARY],
    "nothing": [],
}
# Those that print something.
LOUD = ("wrong value", "unknown command", "failing")


def test_what_a_person_typed_is_not_in_the_event(person: dict[str, str], server: LocalPostHog) -> None:
    """A Typer host by nine command lines: one event each, the program's own output is as without telemetry."""
    spool = Paths(Path(person["HOME"]) / ".ktx").spool
    first = run_python(TYPED, server.url, "work", "x", env=person)
    assert (first.returncode, first.stderr.count("\n")) == (0, 1)
    worlds = {False: person, True: {**person, "DO_NOT_TRACK": "1"}}
    runs = [(name, off) for name in LINES for off in (False, True) if not off or name in LOUD]
    ends: dict[tuple[str, bool], tuple[str, str, int]] = {}
    for batch in (runs[at : at + 4] for at in range(0, len(runs), 4)):
        started = [(run, start_python(TYPED, server.url, *LINES[run[0]], env=worlds[run[1]])) for run in batch]
        ends |= {run: (*process.communicate(timeout=60), process.returncode) for run, process in started}
    assert [name for name in LOUD if ends[name, False] != ends[name, True]] == []
    assert leaks(everywhere(spool.parent)) == []
    done = flusher(person, "run", "--json")
    assert leaks([*everywhere(spool.parent), *wire(server), *told("run", done)]) == []
    commands = [event["properties"] for event in server.accepted if event["event"] == "command"]
    assert len(commands) == len(LINES) + 1
    assert {"password", "count"} <= {name for fields in commands for name in fields["flagsPresent"]}


def test_nothing_names_this_machine_or_its_user(person: dict[str, str], server: LocalPostHog) -> None:
    """The real host name, node id and working folder of the process are in no byte of spool or wire."""
    import socket  # noqa: PLC0415 - for this one question
    import uuid  # noqa: PLC0415 - with it

    node = f"{uuid.getnode():012x}"
    names = {socket.gethostname(), node, ":".join(node[at : at + 2] for at in range(0, 12, 2)), os.getcwd()}
    run_python(HOST, plan(person, server.url, ["an error"]), env=person)
    home = Path(person["HOME"]) / ".ktx"
    before = [data for _place, data in everywhere(home)]
    assert flusher(person).returncode == 0
    seen = [*before, *(data for _place, data in everywhere(home)), *(data for _place, data in wire(server))]
    host_header = server.url.removeprefix("http://").encode()
    assert [name for name in names if any(name.encode() in data.replace(host_header, b"") for data in seen)] == []
