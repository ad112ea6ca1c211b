"""Homes that can't be named, or whose names are traps; systems whose SQLite or file system is another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spool.home import is_network
from tests.support.host import NOBODY, Host, all_arrive
from tests.support.local_posthog import LocalPostHog
from tests.support.mounts import NEEDS_ROOT
from tests.support.processes import environment, flush, status
from tests.support.strict_sqlite import strict_environment

NAMES = {
    "shell": " $HOME ~ 'a' \"b\" `c` a\\b ",
    "address": "a?mode=ro&b#c%2F%s%n",
    "unicode": "ünïcödé 家\N{IDEOGRAPHIC SPACE}🏠",
    "newline": "two\nlines",
    "200 letters": "x" * 200,
    "option": "--force",
    "no text": os.fsdecode(b"\xff\xfe"),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_home_of_any_name_works(name: str, tmp_path: Path, server: LocalPostHog) -> None:
    """No part of a path is expanded, quoted or cut, and nothing appears beside it."""
    home = tmp_path / "homes" / name
    env = environment(HOME="/nonexistent", KTX_HOME=str(home))
    with Host(None, server.url, env=env) as host:
        host.expect(2, "queued")
        assert [*(tmp_path / "homes").iterdir()] == [home]
        assert all_arrive(home, server, host) == {}


def test_a_path_too_long_for_sqlite_is_no_home(tmp_path: Path) -> None:
    """SQLite opens no path over 512 bytes: telemetry is off, and nothing is left there that nobody delivers."""
    home = tmp_path.joinpath(*["y" * 200] * 4)
    with Host(home) as host:
        host.expect(2, "disabled", reason="home not usable")
    assert [*tmp_path.glob("y*")] == []


# -- homes that can't be named ------------------------------------------------------------------------------


@pytest.mark.root
@NEEDS_ROOT
@pytest.mark.parametrize("who", ["import os; os.setgroups([]); os.setuid(54321)", NOBODY])
@pytest.mark.parametrize("env", [{}, {"HOME": ""}], ids=["env -i", "empty"])
def test_without_home_and_account_telemetry_is_off(env: dict[str, str], who: str) -> None:
    """An unknown user, and one whose account has no folder."""
    with Host(None, env=env) as host:
        host.do(who)
        host.expect(2, "disabled", reason="home not usable")


@pytest.mark.root
@NEEDS_ROOT
def test_without_home_the_account_names_it(tmp_path: Path, server: LocalPostHog) -> None:
    """As under cron and systemd: the account's entry is asked (here of a table laid over the system's)."""
    (tmp_path / "passwd").write_text(f"root:x:0:0:root:{tmp_path}/account:/bin/sh\n")
    over = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', tmp_path / "passwd"]
    with Host(None, server.url, env={}, wrapper=[*map(str, over)]) as host:
        host.expect(2, "queued")
    assert all_arrive(tmp_path / "account" / ".ktx", server, host) == {}


@pytest.mark.parametrize("home", ["somewhere", ".", "~", "$HOME"])
def test_a_relative_home_variable_is_none(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME must be absolute: else every working folder would get a spool of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with Host(None, env=environment(HOME=home)) as host:
        host.expect(2, "disabled", reason="home not usable")
    assert [*(tmp_path / "work").iterdir()] == []


def test_a_relative_home_in_a_folder_that_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative KTX_HOME needs the working folder, which somebody deleted."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work").rmdir()
    with Host(None, env=environment(KTX_HOME="home")) as host:
        host.expect(2, "disabled", reason="home not usable")


def test_a_relative_home_stays_where_it_was_when_the_host_moves_on(
    tmp_path: Path, server: LocalPostHog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one below the working folder in which the host began: one home, one install, whatever it changes to."""
    for folder in ("start", "elsewhere"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "start")
    with Host(None, server.url, env=environment(KTX_HOME="home")) as host:
        host.expect(1, "queued")
        host.do(f"import os; os.chdir({str(tmp_path / 'elsewhere')!r})")
        host.expect(2, "queued")
        assert all_arrive(tmp_path / "start" / "home", server, host) == {}
    assert [*(tmp_path / "elsewhere").iterdir()] == []


# -- another SQLite -----------------------------------------------------------------------------------------


@pytest.fixture
def strict_sqlite(tmp_path: Path) -> dict[str, str]:
    """An environment in which SQLite refuses double-quoted strings, as some systems build it."""
    return strict_environment(tmp_path)


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "a queue of another SQLite"])
def test_events_go_aside_where_sqlite_refuses_double_quoted_strings(
    fresh: bool,
    strict_sqlite: dict[str, str],
    home: Path,
    server: LocalPostHog,
) -> None:
    """Each event says why, the flusher too; a Python with another SQLite delivers all."""
    with Host(home, server.url) as before:
        before.expect(0 if fresh else 2, "queued")
    with Host(home, server.url, env=strict_sqlite) as host:
        host.expect(3, "aside", reason="this SQLite refuses double-quoted strings")
    refused = flush(home, "run", env=strict_sqlite)
    assert refused.returncode == 1
    assert "this SQLite refuses double-quoted strings" in refused.stderr
    assert status(home)["pending"] == len(before.receipts) + 3 + 1
    host.receipts += before.receipts
    assert all_arrive(home, server, host) == {}
    assert not (home / "spool" / "quarantine").exists()


# -- network file systems -----------------------------------------------------------------------------------


def line(point: str, kind: str) -> str:
    """Give one line of mountinfo, as proc(5) describes it."""
    return f"36 35 98:0 /mnt1 {point} rw,noatime shared:1 master:2 - {kind} server:/export rw,errors=continue"


ROOT = line("/", "ext4")
TABLES = {
    **{
        f"{kind} below": ([ROOT, line("/net", kind)], "/net/home", True)
        for kind in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "afs", "ceph")
    },
    **{
        f"{kind} is local": ([line("/", kind)], "/home/me", False)
        for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuse.ext4", "nfsd", "autofs")
    },
    "the mount itself": ([ROOT, line("/net", "nfs")], "/net", True),
    "a namesake beside it": ([ROOT, line("/net", "nfs")], "/network/home", False),
    "the root": ([line("/", "nfs4")], "/home/me/.ktx", True),
    "local on network": (
        [ROOT, line("/net", "nfs"), line("/net/me/.ktx", "ext4")],
        "/net/me/.ktx/spool",
        False,
    ),
    "local on network, any order": (
        [line("/net/me/.ktx", "ext4"), line("/net", "nfs"), ROOT],
        "/net/me/.ktx/spool",
        False,
    ),
    "network on local": ([ROOT, line("/home", "ext4"), line("/home/me", "nfs")], "/home/me/.ktx", True),
    "the later of two": ([ROOT, line("/net", "ext4"), line("/net", "nfs")], "/net/home", True),
    "the later of two, local": ([ROOT, line("/net", "nfs"), line("/net", "ext4")], "/net/home", False),
    "octal space": ([ROOT, line(r"/my\040net", "nfs")], "/my net/home", True),
    "octal tab, newline, backslash": ([ROOT, line(r"/a\011b\012c\134d", "nfs")], "/a\tb\nc\\d/home", True),
    "octal digits in the name": ([ROOT, line(r"/a\134040b", "nfs")], r"/a\040b/home", True),
    "unicode space": (
        [ROOT, line("/家\N{IDEOGRAPHIC SPACE}庭", "nfs")],
        "/家\N{IDEOGRAPHIC SPACE}庭/me",
        True,
    ),
    "unicode line": ([ROOT, line("/a\N{LINE SEPARATOR}b", "nfs")], "/a\N{LINE SEPARATOR}b/me", True),
    "no text": ([ROOT, line(os.fsdecode(b"/\xff\xfe"), "nfs")], os.fsdecode(b"/\xff\xfe/me"), True),
    "not there yet": ([ROOT, line("/net", "nfs")], "/net/not/there/yet", True),
    "no optional fields": ([ROOT, "36 35 98:0 / /net rw - nfs server:/ rw"], "/net/home", True),
    "empty": ([], "/home/me", False),
    "garbage": (
        ["", "-", " - ", " - nfs", "a b c - nfs x", "\0\0\0", "nfs nfs nfs nfs nfs"],
        "/home/me",
        False,
    ),
    "garbage before": (["garbage", line("/net", "nfs")], "/net/home", True),
}


@pytest.mark.parametrize(("lines", "path", "expected"), TABLES.values(), ids=TABLES)
def test_a_network_file_system_is_told_from_the_table_of_mounts(
    lines: list[str],
    path: str,
    expected: bool,
    tmp_path: Path,
) -> None:
    """The nearest mount above the path decides; of two at one place, the later."""
    table = tmp_path / "mountinfo"
    table.write_bytes(os.fsencode("".join(f"{line}\n" for line in lines)))
    assert is_network(Path(path), table) is expected


def test_a_link_into_a_network_file_system_is_followed(tmp_path: Path) -> None:
    """The home may be a link: where it leads decides."""
    (tmp_path / "table").write_text(f"{ROOT}\n{line(str(tmp_path / 'net'), 'nfs')}\n")
    (tmp_path / "net" / "home").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "net" / "home")
    assert is_network(tmp_path / "home" / "spool", tmp_path / "table")


def test_a_table_that_does_not_read_says_no(tmp_path: Path) -> None:
    """No table (another system), a folder, half a table: not on a network."""
    assert not is_network(tmp_path, tmp_path / "missing")
    assert not is_network(tmp_path, tmp_path)
    (tmp_path / "binary").write_bytes(os.urandom(4096))
    assert not is_network(tmp_path, tmp_path / "binary")


@pytest.mark.root
@NEEDS_ROOT
def test_events_of_a_network_home_go_aside_and_arrive(tmp_path: Path, server: LocalPostHog) -> None:
    """A host that sees its home on NFS (here by a table laid over the system's) leaves the queue alone."""
    (tmp_path / "table").write_text(line("/", "nfs4") + "\n")
    over = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount --bind "$0" /proc/$$/mountinfo && exec "$@"',
        tmp_path / "table",
    ]
    with Host(tmp_path / "home", server.url, wrapper=[*map(str, over)]) as host:
        host.expect(3, "aside", reason="network file system")
    assert not (tmp_path / "home" / "spool" / "queue").exists()
    assert all_arrive(tmp_path / "home", server, host) == {}
