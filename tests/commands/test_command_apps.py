"""What a Typer or Click app makes of a command line is what its event says: path, flags, outcome, error class.

By names that the app declares alone. The same for every Click since 8.1 and every Typer since 0.16.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.forks import Ended, run_forked
from tests.support.local_posthog import LocalPostHog
from tests.support.processes import environment, flush_json, run_python
from tests.support.ways import HEAD

Told = tuple[str, set[str], str, str | None]

TYPER = """
import typer
from typing import Annotated
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
mcp = typer.Typer()
app.add_typer(mcp, name="mcp")
@app.callback()
def root(config: str = "", verbose: bool = False): pass
@mcp.command()
def stdio(number: Annotated[int, typer.Option("-n", "--number")] = 0, quick: Annotated[bool, typer.Option("-q")] = False
):
    pass
class HostError(Exception): pass
@app.command()
def fail(how: str):
    if how == "exit": raise typer.Exit(4)
    if how == "clean": raise typer.Exit()
    if how == "abort": raise typer.Abort()
    if how == "from": raise typer.Exit(2) from HostError("words")
    if how == "prompt": typer.prompt("more")
    if how == "parameter": raise typer.BadParameter(how)
    raise RuntimeError(how)
@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def run(context: typer.Context): print("ran", context.args)
@app.command(context_settings={"allow_interspersed_args": False})
def after(words: list[str]): print("ran", words)
"""
CLICK = """
import click
class HostError(click.ClickException): exit_code = 5
class Lazy(click.Group):
    def list_commands(self, ctx): return [*super().list_commands(ctx), "lazy"]
    def get_command(self, ctx, name):
        if name.startswith("made-"): return click.Command(name, callback=lambda: None)
        if name == "lazy": return click.Command(name, params=work.params, callback=work.callback)
        return super().get_command(ctx, "chain" if name == "ch" else name)
@click.group(cls=Lazy, context_settings={"token_normalize_func": str.lower}, invoke_without_command=True)
@click.version_option("1.2.3", "--release")
def app(): pass
@click.command()
@click.option("--color", is_flag=False, flag_value="auto", default="never")
@click.option("--fast", "speed", flag_value="fast")
@click.option("--slow", "speed", flag_value="slow")
@click.option("--cache/--no-cache")
@click.argument("rest", nargs=-1)
def work(**_): pass
app.add_command(work)
@app.group(chain=True)
def chain(): pass
@chain.command()
@click.option("--one", is_flag=True)
def build(one): pass
@chain.command()
@click.option("--two")
def deploy(two): pass
@app.group()
@click.argument("project")
def on(project): pass
@on.command("status")
def on_status(): pass
@app.command()
@click.pass_context
def fail(ctx): raise HostError("no such thing")
@app.command()
def within():
    for line in (["work", "--help"], ["fail"], ["work", "--cache"]):
        try: app.main(line, standalone_mode=False)
        except click.ClickException: pass
@app.command(no_args_is_help=True)
@click.argument("name")
def helped(name): pass
"""

# What is typed: the exit code, and what is told (nothing of what is no command).
TYPER_LINES: dict[str, tuple[int, Told | None]] = {
    "mcp stdio": (0, ("ktx mcp stdio", set(), "ok", None)),
    "--config mcp mcp stdio -qn 5": (0, ("ktx mcp stdio", {"config", "number", "q"}, "ok", None)),
    "--no-verbose fail clean": (0, ("ktx fail", {"no-verbose"}, "ok", None)),
    "--verbose fail exit": (4, ("ktx fail", {"verbose"}, "error", None)),
    "fail abort": (1, ("ktx fail", set(), "aborted", None)),
    "fail from": (2, ("ktx fail", set(), "error", "HostError")),
    "fail prompt": (1, ("ktx fail", set(), "aborted", None)),
    "fail parameter": (2, ("ktx fail", set(), "error", "BadParameter")),
    "fail SECRET": (1, ("ktx fail", set(), "error", "RuntimeError")),
    "mcp stdio --number SECRET": (2, ("ktx mcp stdio", {"number"}, "error", "BadParameter")),
    "mcp stdio --SECRET": (2, ("ktx mcp stdio", set(), "error", "NoSuchOption")),
    "SECRET": (2, ("ktx", set(), "error", "UsageError")),
    "mcp SECRET": (2, ("ktx mcp", set(), "error", "UsageError")),
    "fail": (2, ("ktx fail", set(), "error", "MissingParameter")),
    "run --help": (0, ("ktx run", set(), "ok", None)),
    "after SECRET --help": (0, ("ktx after", set(), "ok", None)),
    "run -- --help": (0, ("ktx run", set(), "ok", None)),
    "--help": (0, None),
    "mcp stdio --help": (0, None),
    "mcp --help SECRET": (0, None),
}
CLICK_LINES: dict[str, tuple[int, Told | None]] = {
    "work": (0, ("ktx work", set(), "ok", None)),
    "WORK --COLOR SECRET --cache": (0, ("ktx work", {"color", "cache"}, "ok", None)),
    "lazy --color -- x": (0, ("ktx lazy", {"color"}, "ok", None)),
    "lazy --no-cache --slow": (0, ("ktx lazy", {"no-cache", "slow"}, "ok", None)),
    "made-SECRET": (0, ("ktx unknown", set(), "ok", None)),
    "ch build --one deploy --two SECRET": (0, ("ktx chain build deploy", {"one", "two"}, "ok", None)),
    "chain deploy build": (0, ("ktx chain deploy build", set(), "ok", None)),
    "on status status": (0, ("ktx on status", set(), "ok", None)),
    "on SECRET status": (0, ("ktx on status", set(), "ok", None)),
    "fail": (5, ("ktx fail", set(), "error", "HostError")),
    "within": (0, ("ktx within", set(), "ok", None)),
    "": (0, ("ktx", set(), "ok", None)),
    "on SECRET": (2, ("ktx on", set(), "error", "UsageError")),
    "work --help": (0, None),
    "--release": (0, None),
}
# An error that a later Click has a narrower class for.
NARROWER = {"NoSuchCommand": "UsageError"}


def told(server: LocalPostHog) -> list[Told]:
    """Give what the command events say, in the order of the commands."""
    events = [event["properties"] for event in server.accepted if event["event"] == "command"]
    assert all(all(fields["flagsPresent"].values()) for fields in events)
    return [
        (
            " ".join(fields["commandPath"]), set(fields["flagsPresent"]), fields["outcome"],
            NARROWER.get(fields.get("errorClass"), fields.get("errorClass")),
        )
        for fields in events
    ]  # fmt: skip


def run_lines(app: str, lines: list[str], home: Path, server: LocalPostHog) -> dict[str, Ended]:
    """Run an app by each line, with telemetry and without; it has loaded what it needs, once for all."""
    cases = {}
    for line in lines:
        for name, off in ((line, "0"), (f"{line}, off", "1")):
            cases[name] = (
                f"os.environ['DO_NOT_TRACK'] = '{off}'\n"
                f"sys.argv[1:] = {line.split()!r}\nsys.stdin = open(os.devnull)\nt.main(app)"
            )
    loaded = "t.capture('x')\ntry: app(['mcp', 'stdio'], standalone_mode=False)\nexcept Exception: pass\n"
    return run_forked(HEAD + app + loaded, cases, home, server.url)


@pytest.mark.parametrize(("app", "lines"), [(TYPER, TYPER_LINES), (CLICK, CLICK_LINES)], ids=["typer", "click"])
def test_the_path_the_flags_and_the_end_of_a_command_are_what_the_app_says(
    app: str, lines: dict[str, tuple[int, Told | None]], home: Path, server: LocalPostHog
) -> None:
    """Groups nested, lazy, chained, with arguments; options normalised and without values; help and usage errors.

    Exit code and every printed line are those of the app without telemetry; nothing that was typed is told.
    """
    ended = run_lines(app, list(lines), home, server)
    for line, (code, _told) in lines.items():
        assert (line, ended[line].code) == (line, code), ended[line].err
        assert ended[line] == ended[f"{line}, off"]
    assert flush_json(home)["exit_code"] == 0
    assert told(server) == [expected for _code, expected in lines.values() if expected is not None]
    assert "SECRET" not in json.dumps(server.accepted)


def test_no_arguments_that_mean_help_are_no_command(home: Path, server: LocalPostHog) -> None:
    """Some versions of Click exit with 0, some with 2: either way the app only informed."""
    ended = run_lines(CLICK, ["helped"], home, server)
    assert ended["helped"].code in (0, 2)
    assert ended["helped"] == ended["helped, off"]
    flush_json(home)
    assert told(server) == []


def test_what_only_informs_creates_nothing(home: Path, server: LocalPostHog) -> None:
    """The first run of all may be --help, or the shell's at the press of a key: no home appears, no line is said."""
    completion = environment(_KTX_COMPLETE="complete_bash", COMP_WORDS="ktx mc", COMP_CWORD="1")
    for app, line, env in (
        (TYPER, ["mcp", "--help"], environment()),
        (CLICK, ["--release"], environment()),
        (TYPER, [], completion),
    ):
        done = run_python(HEAD + app + f"t.main(app, {line!r})", home, server.url, env=env)
        assert "collects" not in done.stderr
        assert not home.exists()


def test_a_killed_command_has_the_path_and_the_flags_that_the_app_read(home: Path, server: LocalPostHog) -> None:
    """Also where they were not to be known beforehand: a lazy command, and what looked like a question for help."""
    die = "os.kill(os.getpid(), signal.SIGKILL)"
    lazy = CLICK.replace("def work(**_): pass", f"def work(**_): {die}")
    passing = TYPER.replace('print("ran", context.args)', die)
    for code, line in ((lazy, ["lazy", "--slow", "--color"]), (passing, ["run", "x", "--help"])):
        assert run_python(HEAD + code + f"t.main(app, {line!r})", home, server.url).returncode == -9
    assert flush_json(home)["recovered_spans"] == 1  # the other one by the second host
    assert told(server) == [("ktx lazy", {"slow", "color"}, "aborted", None), ("ktx run", set(), "aborted", None)]


def test_a_traceback_holds_nothing_of_ours(home: Path, server: LocalPostHog) -> None:
    """What the person sees of an unexpected error is the program's own calls."""
    ended = run_lines(TYPER, ["fail SECRET"], home, server)["fail SECRET"]
    assert ended.err.splitlines()[-1] == "RuntimeError: SECRET"
    assert "/spool/" not in ended.err


def test_a_command_annotates_its_event_by_the_span_under_way(home: Path, server: LocalPostHog) -> None:
    """Outcome, error and project, from within a command of an app; where telemetry is off, it does nothing."""
    app = (
        "import click\n"
        "@click.command()\n"
        "def app(): t.span.annotate(outcome='aborted', error_class='WizardLeft', project='.'); print(t.span.is_open)\n"
    )
    ended = run_lines(app, ["x", ""], home, server)
    assert (ended[""].out, ended[", off"].out) == ("True\n", "False\n")
    flush_json(home)
    usage, fields = (event["properties"] for event in server.accepted if event["event"] == "command")
    assert (usage["hasProject"], usage["errorClass"]) == (False, "UsageError")
    assert (fields["outcome"], fields["errorClass"]) == ("aborted", "WizardLeft")
    assert (fields["hasProject"], fields["projectGroupAttached"], len(fields["$groups"]["project"])) == (True, True, 64)
