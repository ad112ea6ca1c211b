"""The guard kit: a pytest plugin by which a host notices when one of its events is no longer captured.

    def test_a_damaged_file_is_told(captured):
        run(["mycli", "ingest", "damaged.db"])
        captured.one("ingest_completed", outcome="error")
        captured.none("scan_completed")

    def test_nothing_is_told_of_one_who_said_no(captured):
        with captured.opted_out():
            run(["mycli", "ingest", "shop.db"])
        captured.none()

pytest finds it once this package is installed; a suite that doesn't use `captured` is not affected. In a test that uses
it, every Telemetry of any app, made before or in the test, here or in a child process, has a home of the test's own: an
install after its first run, with telemetry on. Mistakes raise, and no flusher is started. The events are read from the
spool that was written: nothing is patched.

In the process of the test this holds whatever the test does to `os.environ`; it may clear it. A child process learns of
it by its environment alone. One that is started with an environment of its own (`env={}`), or while `os.environ` is
cleared, uses the real home and sends what it captures. Give it one variable more:

    subprocess.run(["mycli", "scan"], env={"PATH": os.defpath, "KTX_SPOOL_TESTING": str(captured.home)})

A thread that outlives its test is outside of it: wait for its end.

`pytest --spool-require-all-events` fails if an event of the catalogue was captured by no test that used `captured`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from spool.consent import telemetry_json
from spool.home import Paths, private_folder, under_test, write_new
from spool.host import Host, living
from spool.settings import GUARD, TESTING, env_prefix
from spool.testing.captured import Captured

__all__ = ["Captured", "captured"]

REQUIRE = "--spool-require-all-events"
# How the session check is found by the fixture.
_CHECK = "spool-all-events"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, and the settings of the same names in the project's pytest configuration."""
    group = parser.getgroup("spool", "telemetry by ktx-spool")
    group.addoption(REQUIRE, action="store_true", help="fail if an event of the catalogue was captured by no test")
    group.addoption("--spool-catalogue", metavar="MODULE:NAME", help="the catalogue that is meant")
    parser.addini("spool_catalogue", "the same, for every run")
    parser.addini("spool_app", "apps that tests run as processes only: their variables are set as well", "args")


def pytest_configure(config: pytest.Config) -> None:
    """Register the session check if it is asked for."""
    if config.getoption(REQUIRE):
        from spool.testing.all_events import AllEvents  # noqa: PLC0415 - for a session that is checked

        config.pluginmanager.register(AllEvents(config), _CHECK)


@pytest.fixture
def captured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """The events that the code under test spooled, with assertions: `one`, `none`, `all`, `opted_out`."""
    paths = Paths(tmp_path_factory.mktemp("spool-home"))
    private_folder(paths.home)  # a test before may have left a umask
    write_new(paths.identity, telemetry_json(str(uuid4())))
    under_way = {host: host.span for host in living}
    # The test's own `monkeypatch.undo()` leaves both alone; the first one holds where the test clears `os.environ`.
    with under_test(str(paths.home)), pytest.MonkeyPatch.context() as patch:
        _stage(patch, paths.home, {*(host.options.app for host in under_way), *request.config.getini("spool_app")})
        kit = Captured(paths.home, _known)
        yield kit
        for host in list(living):
            _leave(host, paths.home, before=under_way.get(host))
        check = request.config.pluginmanager.get_plugin(_CHECK)
        if check is not None:
            check.note(kit.names(), _catalogued())


def _stage(patch: pytest.MonkeyPatch, home: Path, apps: set[str]) -> None:
    """Set the environment, for child processes: the test's home, no flusher, nothing that switches telemetry off."""
    patch.setenv(TESTING, str(home))
    patch.setenv(GUARD, "1")
    unset = ["CI", "DO_NOT_TRACK"]
    for prefix in map(env_prefix, sorted(apps)):
        patch.setenv(prefix + "HOME", str(home))  # for the host's own code, and for what is no Python
        patch.setenv(prefix + "TELEMETRY_STRICT", "1")
        unset += [prefix + "TELEMETRY_" + name for name in ("DISABLED", "DEBUG", "ENDPOINT", "KEY")]
    for name in unset:
        patch.delenv(name, raising=False)


def _leave(host: Host, home: Path, *, before: object) -> None:
    """Make a host ready for the next test; a command that this test left open is ended."""
    if host.span is not None and host.span is not before:
        host.span.abort()
        host.span = None
    host.forget(home)


def _catalogued() -> set[str]:
    """Give the events of the catalogues of this process."""
    catalogues = [host.options.catalogue for host in living]
    return {name for catalogue in catalogues if catalogue is not None for name in catalogue.names()}


def _known() -> set[str]:
    """Give the events that can be captured in this process; none where a Telemetry without catalogue takes any."""
    if any(host.options.catalogue is None for host in living):
        return set()
    return _catalogued()
