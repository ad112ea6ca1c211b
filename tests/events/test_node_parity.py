"""Node and Python judge alike: ajv by the schema in the package, and zod by schemas as a Node program writes them."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings

from spool.errors import InvalidEventError
from spool.ktx_events import CATALOGUE
from spool.settings import is_set
from tests.support.examples import right, wrong
from tests.support.processes import ROOT

SCHEMA: dict[str, Any] = json.loads((ROOT / "spool" / "events.schema.json").read_text())["$defs"]
JUDGES = ROOT / "tests" / "node"
# As they are before a test has a home of its own: npm's own settings lie in the user's.
ENVIRONMENT = dict(os.environ)
# Right examples of each event, and of how many all is made wrong, one place at a time: some 14,000 in all. The name
# `__proto__` is not among those of a record (flagsPresent): zod passes over it, whatever it holds.
RIGHT, WRONG = 20, 1


class Example(NamedTuple):
    """One event's properties, all of them, and what Python says of them."""

    event: str
    properties: dict[str, Any]
    allowed: bool


@pytest.fixture(scope="module")
def packages() -> Path:
    """Install ajv and zod, once for each lock file, and give the folder. Skips without Node or npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("no Node, or no npm, on this machine")
    lock = (JUDGES / "package-lock.json").read_bytes()
    folder = ROOT / ".node" / sha256(lock).hexdigest()[:16]
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JUDGES / name, draft)
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run(
            install, cwd=draft, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
        )
        try:
            if done.returncode:
                missing(f"npm could not install ajv and zod: {done.stderr.strip()[-300:]}")
            os.rename(draft, folder)
        except OSError:
            assert folder.exists()  # another worker was faster
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def missing(reason: str) -> None:
    """Skip; but fail in CI, where parity must be proved."""
    if is_set(ENVIRONMENT.get("CI")):
        pytest.fail(reason)
    pytest.skip(reason)


def right_ones(event: str, count: int) -> list[dict[str, Any]]:
    """Make examples that the schema allows, the same ones each time."""
    found: list[dict[str, Any]] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(right(SCHEMA[event]))
    def collect(example: dict[str, Any]) -> None:
        found.append(example)

    collect()
    return found


def examples() -> Iterator[Example]:
    """Make the examples of all events: right ones, wrong ones, and right ones of other events."""
    for event, schema in SCHEMA.items():
        made = right_ones(event, RIGHT)
        for example in made:
            yield judged(event, example)
        for example in random.Random(event).sample(made, WRONG):
            for changed in wrong(example, schema):
                yield judged(event, changed)
            yield judged(event, {**example, "constructor": 1})
            yield from (judged(other, example) for other in SCHEMA if other != event)


def judged(event: str, properties: dict[str, Any]) -> Example:
    """Let Python judge."""
    try:
        CATALOGUE.check_complete(event, properties)
    except InvalidEventError:
        return Example(event, properties, allowed=False)
    return Example(event, properties, allowed=True)


def on_the_wire(value: Any) -> Any:
    """Give a value as JSON can say it: NaN and the infinities are no JSON, so the judges put them back."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[str(value)]}
    if isinstance(value, Mapping):
        return {name: on_the_wire(item) for name, item in value.items()}
    if isinstance(value, list):
        return [on_the_wire(item) for item in value]
    return value


def without_words(schema: Any) -> Any:
    """Give what a schema demands: no descriptions, and no order where there is none."""
    if not isinstance(schema, dict):
        return schema
    fields = ((name, without_words(rule)) for name, rule in schema.items())
    kept = {name: rule for name, rule in fields if name != "description" or isinstance(rule, dict)}
    return {name: sorted(rule) if name in ("required", "enum") else rule for name, rule in kept.items()}


def test_node_and_python_give_the_same_verdicts(
    packages: Path, record_testsuite_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Thousands of examples, one Node process: the catalogue, ajv and zod agree on every one of them."""
    batch = list(examples())
    command = ["node", str(JUDGES / "judge.mjs"), str(packages), str(ROOT / "spool" / "events.schema.json")]
    lines = "\n".join(json.dumps([one.event, on_the_wire(one.properties)]) for one in batch)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    *answers, written = map(json.loads, done.stdout.splitlines())
    assert len(answers) == len(batch)
    by_ajv = [one for one, (verdict, _) in zip(batch, answers, strict=True) if verdict != one.allowed]
    by_zod = [one for one, (_, verdict) in zip(batch, answers, strict=True) if verdict != one.allowed]
    allowed = sum(one.allowed for one in batch)
    told = f"{len(batch)} examples, {allowed} of them right; disagree: ajv {len(by_ajv)}, zod {len(by_zod)}"
    record_testsuite_property("parity", told)
    with capsys.disabled():
        print(f"\n{told}")  # noqa: T201 - the numbers are what this test is for
    assert (by_ajv, by_zod) == ([], [])
    assert len(batch) > 5_000
    assert {one.event for one in batch if one.allowed} == {one.event for one in batch if not one.allowed} == set(SCHEMA)
    assert min(allowed, len(batch) - allowed) > 1_000
    # Also on what no example shows: zod's own account of its schemas is the schema in the package.
    assert {event: without_words(one) for event, one in written.items()} == without_words(SCHEMA)


def test_the_lock_file_names_no_registry() -> None:
    """Whoever installs takes the packages from the registry of their own settings."""
    lock = json.loads((JUDGES / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert {name for name, package in packages.items() if "resolved" in package or "integrity" not in package} == set()
    assert {"node_modules/ajv", "node_modules/zod"} <= set(packages)
