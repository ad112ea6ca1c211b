"""CONTRIBUTING.md is enough: an event and a command are added to a copy of the project by what the page says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from tests.support.documents import blocks
from tests.support.processes import ROOT, environment

IMPORT, ROW = "from flusher.commands.where import where_command\n", '    "where": where_command,\n'
CODE = {block.name: block.text for block in blocks("CONTRIBUTING.md") if "/" in block.name}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, without what is made in it."""
    copy = tmp_path / "project"
    left = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=left, symlinks=True)
    return copy


def change(path: Path, pattern: str, more: str) -> None:
    """Put `more` behind the one place that the pattern finds."""
    text = path.read_text()
    (place,) = re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    path.write_text(text[: place.end()] + more + text[place.end() :])


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, with nothing of the checkout."""
    env = environment(PYTHONPATH=str(project))
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False)


def passes(project: Path, *arguments: str) -> None:
    """Run tests of the copy; all pass, and some ran."""
    done = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments)
    assert done.returncode == 0, done.stdout


def test_a_command_is_added_by_what_the_page_says(project: Path) -> None:
    """The module, its registration, its test, its line in the README; the help's examples run, too."""
    for name in ("flusher/commands/where.py", "tests/operator/test_where.py"):
        (project / name).write_text(CODE[name])
    change(project / "flusher" / "cli.py", r"^from flusher\.commands\.shared import \w+\n", IMPORT)
    change(project / "flusher" / "cli.py", r"^_COMMANDS: [^{]+{[^}]+,\n", ROW)
    assert run(project, "-m", "ruff", "check", "flusher", "tests/operator/test_where.py").returncode == 0
    change(project / "README.md", r"^## Looking\n\n```sh\n", "ktx-flush --app mycli where\n")
    tests = [f"tests/{name}.py" for name in ("operator/test_where", "operator/test_help", "project/test_documents")]
    passes(project, *tests, "-k", "where or the_readme_shows_every_command")


def test_an_event_is_added_by_what_the_page_says(project: Path) -> None:
    """The reference, the class, the schema; then the tests of the catalogue hold it to what they hold the others."""
    place = project / "tests" / "data" / "ktx-events.reference.json"
    reference = json.loads(place.read_text())
    definition = json.loads(json.dumps(reference["$defs"]["daemon_stopped"]))
    own = {name: reference["$defs"]["scan_completed"]["properties"][name] for name in ("driver", "columnCount")}
    own |= {name: reference["$defs"]["scan_completed"]["properties"][name] for name in ("durationMs", "outcome")}
    for name in ("reason", "uptimeMs"):
        del definition["properties"][name]
        definition["required"].remove(name)
    definition["properties"] |= own
    definition["required"] += own
    reference["$defs"]["profile_written"] = definition
    reference["x-ktx-catalog"].append({"name": "profile_written", "fields": list(own)})
    place.write_text(json.dumps(reference, indent=1))

    events = project / "spool" / "ktx_events.py"
    change(events, r"\n\n\n(?=CATALOGUE = )", CODE["spool/ktx_events.py"] + "\n\n")
    change(events, r'    "McpRequestCompleted",\n', '    "ProfileWritten",\n')
    change(events, r'    QueryHistoryFilterCompleted,\n(?=    name="ktx")', "    ProfileWritten,\n")
    assert run(project, "scripts/generate_schema.py", "--check").returncode == 1
    assert run(project, "scripts/generate_schema.py").returncode == 0
    judges = project / "tests" / "node" / "events.mjs"
    change(judges, r"parseFailedCount: count, outcome,\n    \}\),\n", indent(CODE["tests/node/events.mjs"], "    "))
    assert run(project, "-m", "ruff", "check", "spool").returncode == 0
    passes(project, "tests/events/test_catalogue.py", "-k", "profile_written or its_order or described or current")
