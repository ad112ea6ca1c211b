"""A report of an error tells of the code, and not of the person: no secret, no path, no source of theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spool.exception.report import exception_properties
from tests.support.errors import frames, linked, load_module, ours, raised, report
from tests.support.processes import environment, run_python

HEAD, END = "Kq7z", "zX9w"
CANARIES = st.text("abcXYZ019_", max_size=30).map(lambda text: HEAD + text + END)
WAYS: dict[str, Callable[[str], BaseException]] = {
    "text": lambda canary: ValueError(f"bad value {canary}"),
    "argument": lambda canary: KeyError(canary, {"x": [canary]}),
    "attribute": lambda canary: OSError(2, "No such file", f"/x/{canary}"),
    "class": lambda canary: type(canary, (Exception,), {})(),
    "module of the class": lambda canary: type("E", (Exception,), {"__module__": canary})(),
    "group": lambda canary: ExceptionGroup(canary, [ValueError(canary)]),
    "cause": lambda canary: linked(ValueError("x"), "__cause__", TypeError(canary)),
    "context": lambda canary: linked(ValueError("x"), "__context__", TypeError(canary)),
    "function": lambda canary: raised(_run(f"def {canary}():\n    1 / 0\n{canary}()", "m", "<string>")),
    "code without a file": lambda canary: raised(_run("1 / 0", "m", f"<{canary}>")),
    "module": lambda canary: raised(_run("1 / 0", canary, "/x/m.py")),
    "source line": lambda canary: raised(_run(f"password = '{canary}'; 1 / 0", "m", "<string>")),
}
# Where a canary goes although nobody named it.
UNNAMED: dict[str, Callable[[str], BaseException]] = {
    "note": lambda canary: _noted(ValueError("x"), canary),
    "URL": lambda canary: ConnectionError(f"postgres://u:{canary}@h/db"),
    "header": lambda canary: RuntimeError({"Authorization": f"Bearer {canary}"}),
    "key=value": lambda canary: RuntimeError(f"password={canary} is wrong"),
    "JSON": lambda canary: ValueError(json.dumps({"api_key": canary})),
    "home of somebody": lambda canary: FileNotFoundError(2, "No such file", f"/home/{canary}/x"),
    "cause of a cause": lambda canary: linked(ValueError("x"), "__cause__", WAYS["cause"](f"token={canary}")),
    "local variable": lambda canary: raised(lambda: next(value for value in [canary] if not value)),
    "file path": lambda canary: raised(_run("1 / 0", "m", f"/data/{canary}/m.py")),
    "script": lambda canary: raised(_run("1 / 0", "__main__", f"/data/{canary}.py")),
    "file of a package": lambda canary: raised(_run("1 / 0", "pkg.sub.m", f"/data/{canary}/pkg/sub/m.py")),
    "library": lambda canary: raised(_run("1 / 0", "lib", f"/data/{canary}/lib/site-packages/lib/m.py")),
    "relative path": lambda canary: raised(_run("1 / 0", "m", f"{canary}/m.py")),
    "path on Windows": lambda canary: raised(_run("1 / 0", "m", rf"D:\{canary}\m.py")),
}


def _noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


def _run(source: str, module: str, path: str) -> Callable[[], object]:
    code = compile(source, path, "exec")
    return lambda: exec(code, {"__name__": module})  # noqa: S102 - code of our own


@pytest.mark.parametrize("way", [*WAYS, *UNNAMED])
@settings(max_examples=50, deadline=None)
@given(canary=CANARIES)
def test_a_canary_in_an_error_never_reaches_the_report(way: str, canary: str) -> None:
    """Named by the host, wherever it stands; not named, wherever a rule or the shape of the report keeps it out."""
    error = (WAYS.get(way) or UNNAMED[way])(canary)
    for in_app in (None, ours, lambda _: True):
        told = json.dumps(
            exception_properties(error, handled=True, in_app=in_app, secrets=[canary] if way in WAYS else [])
        )
        assert HEAD not in told
        assert END not in told


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from spool.exception.report import exception_properties
def boom():
    # a comment of Kq7z
    json.loads("{")
def main():
    import acme_plugin
    try:
        boom()
    except ValueError as error:
        raise FileNotFoundError(2, "No such file", sys.argv[1] + "/x.csv") from error
try:
    main()
except OSError as error:
    print(json.dumps(exception_properties(error, handled=False)))
"""


def test_a_users_script_is_told_without_its_path_and_its_lines(tmp_path: Path) -> None:
    """A real script below a real home: functions and lines, but neither home, name, path nor source."""
    home = tmp_path / "Kq7zhome"
    (home / "private").mkdir(parents=True)
    (home / "acme_plugin.py").write_text("")
    script = home / "private" / "Kq7zscript.py"
    script.write_text(SCRIPT)
    env = environment(HOME=str(home), USER="Kq7zuser")
    done = run_python("import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')", script, home, env=env)
    assert done.returncode == 0, done.stderr
    assert "Kq7z" not in done.stdout
    outer, inner = json.loads(done.stdout)["$exception_list"]
    assert outer["value"] == "[Errno 2] No such file: '~/x.csv'"
    own = [frame for frame in inner["stacktrace"]["frames"] if frame["module"] == "__main__"]
    assert [(frame["filename"], frame["function"]) for frame in own] == [("<script>", "main"), ("<script>", "boom")]
    assert all(frame["context_line"] is None and frame["in_app"] for frame in own)
    library = inner["stacktrace"]["frames"][-1]
    assert (library["filename"], library["in_app"]) == ("json/decoder.py", False)
    assert library["context_line"].strip()


def test_source_lines_are_told_of_libraries_and_of_the_host_alone(tmp_path: Path) -> None:
    """The same module: told when the host calls it its own, or when it lies among the libraries; redacted."""
    source = "def go():\n    password = 'hunter2'\n    return [][0]\n"
    module = load_module(tmp_path, "pkg.mod", source)
    theirs = frames(raised(module.go), in_app=lambda _: False)[-1]
    assert (theirs["filename"], theirs["context_line"], theirs["pre_context"]) == ("pkg/mod.py", None, [])
    own = frames(raised(module.go), in_app=lambda name: name == "pkg.mod")[-1]
    assert own["context_line"] == "    return [][0]"
    assert own["pre_context"] == ["def go():", "    password = <redacted>"]
    assert own["in_app"] is True
    module = load_module(tmp_path / "site-packages", "pkg.mod", source)
    library = frames(raised(module.go), in_app=lambda _: False)[-1]
    assert (library["filename"], library["context_line"]) == ("pkg/mod.py", "    return [][0]")
    (tmp_path / "site-packages" / "pkg" / "mod.py").unlink()
    assert frames(raised(module.go), in_app=None)[-1]["context_line"] is None


def test_a_host_that_is_called_like_its_account_keeps_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container USER may be the host's own name: its code is the same everywhere and stays readable."""
    monkeypatch.setenv("USER", "pkg")
    module = load_module(tmp_path, "pkg.mod", "def pkg():\n    raise ValueError('pkg is me')\n")
    entry = report(raised(module.pkg), in_app=lambda name: name.startswith("pkg"))[0]
    frame = entry["stacktrace"]["frames"][-1]
    assert (frame["filename"], frame["module"], frame["function"]) == ("pkg/mod.py", "pkg.mod", "pkg")
    assert entry["value"] == "<user> is me"
