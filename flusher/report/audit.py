"""Which events are no longer captured? Judged by `emitted.json`, the counts of what this install captured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from flusher.text import printable
from spool.beside.sightings import ENOUGH, Ran, Version

__all__ = ["Silent", "audit", "told"]

# These depend on the machine, not on the host.
_NOT_JUDGED = {"install_first_run", "spool_loss", "$exception"}
# A run that failed or was aborted may have ended elsewhere: a single such run proves little.
_MUST_BE_EXPECTED = {"ok": 1, "": 1}
_ELSE_EXPECTED = 3


@dataclass(frozen=True, slots=True)
class Silent:
    """An event that `version`, the last one that captured it here, had in `seen` of `of_runs` runs of `command`.

    The present version had it in none of `runs_now`, which ended with the same outcome. `still_under` are the
    commands under which it has it.
    """

    event: str
    command: str
    outcome: str
    version: str
    seen: int
    of_runs: int
    runs_now: int
    still_under: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Audit:
    """What the ledger says. `retired` are silent too, but the present version's catalogue has them no more.

    `never_seen` are of that catalogue, and no version has captured them here: no alarm, for a person may never
    have done what they tell of. `catalogue` says whether the host has one; without it versions alone are compared.
    """

    present: str | None = None
    since: str | None = None
    earlier: list[str] = field(default_factory=list)
    catalogue: bool = False
    silent: list[Silent] = field(default_factory=list)
    retired: list[Silent] = field(default_factory=list)
    never_seen: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Give it as JSON has it."""
        return asdict(self)


def audit(versions: Sequence[Version]) -> Audit:
    """Compare the present version, which is the one that ran last, with those before it.

    An event is silent if the present version had it in no run of a command, and by the share of the runs that
    had it before it should have been in at least one by now.
    """
    if not versions:
        return Audit()
    *earlier, present = versions
    known = set(present.catalogue)
    found = [*_missing(earlier, present), *_without_commands(earlier, present)]
    seen = {event for one in versions for _command, _outcome, ran in _runs(one) for event in ran.events}
    return Audit(
        present=present.version,
        since=present.first,
        earlier=[one.version for one in earlier],
        catalogue=bool(known),
        silent=[one for one in found if not known or one.event in known or one.event == "command"],
        retired=[one for one in found if known and one.event not in known and one.event != "command"],
        never_seen=[name for name in present.catalogue if name not in seen and name not in _NOT_JUDGED],
    )


def _missing(earlier: Sequence[Version], present: Version) -> Iterator[Silent]:
    for command, outcome, now in _runs(present):
        before: dict[str, tuple[str, Ran]] = {}
        for version in earlier:
            ran = version.commands.get(command, {}).get(outcome, Ran(0, {}))
            before |= dict.fromkeys(ran.events, (version.version, ran))
        for event, (version_name, ran) in sorted(before.items()):
            expected = now.runs * ran.events[event] / max(1, ran.runs)
            if event in now.events or event in _NOT_JUDGED or expected < _MUST_BE_EXPECTED.get(outcome, _ELSE_EXPECTED):
                continue
            still = sorted({other for other, _outcome, ran in _runs(present) if event in ran.events})
            yield Silent(event, command, outcome, version_name, ran.events[event], ran.runs, now.runs, still)


def _without_commands(earlier: Sequence[Version], present: Version) -> Iterator[Silent]:
    """Find that commands themselves are no longer captured: the host captures events, but under no command."""
    last = next((one for one in reversed(earlier) if any(one.commands)), None)
    now = present.commands.get("", {}).get("")
    if last is None or now is None or any(present.commands):
        return
    runs = sum(ran.runs for command, _outcome, ran in _runs(last) if command)
    yield Silent("command", "", "", last.version, runs, runs, now.runs)


def _runs(version: Version) -> Iterator[tuple[str, str, Ran]]:
    for command, outcomes in version.commands.items():
        for outcome, ran in outcomes.items():
            yield command, outcome, ran


def told(found: Audit) -> list[str]:
    """Say it to a person, a line for each finding."""
    if found.present is None:
        return ["nothing was captured here yet, or telemetry is off: there is nothing to compare"]
    against = f"compared with {', '.join(found.earlier)}" if found.earlier else "the first version that was seen here"
    lines = [f"{found.present}, since {found.since}, {against}"]
    lines += [_line("silent", one, found.present) for one in found.silent]
    lines += [_line("not in the catalogue any more", one, found.present) for one in found.retired]
    if found.never_seen:
        lines.append(f"never captured here: {', '.join(found.never_seen)}")
    if not found.catalogue:
        lines.append("this host has no catalogue: only what some version captured here is known")
    if not found.silent:
        lines.append("no event went silent")
    return [printable(line, 1_000) for line in lines]


def _line(what: str, one: Silent, present: str) -> str:
    where = f"of `{one.command}`" if one.command else "without a command"
    how = f" that ended {one.outcome}" if one.outcome else ""
    line = f"{what}: {one.event}: {one.version} had it in {one.seen} of {_many(one.of_runs)} {where}{how}"
    line += f", {present} in none of {_many(one.runs_now)}"
    still = ", ".join(f"`{command}`" if command else "outside of commands" for command in one.still_under)
    return f"{line}; it still comes from {still}" if still else line


def _many(runs: int) -> str:
    more = " or more" if runs >= ENOUGH else ""
    return f"{runs}{more} run{'s' if runs != 1 else ''}"
