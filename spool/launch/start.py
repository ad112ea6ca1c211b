"""Is a flush due? Then start a flusher, detached. Never imports it.

A host asks twice: at its first event (something may wait from before) and at its end. Asking costs a few looks at
files, and opens no database. A launch is claimed under `flush.lock`: of many hosts at once, one starts a flusher, and
no other does within `LAUNCH_PAUSE_S`. After a success none is started within `interval_s`, after a failure none before
the stored next attempt.

What a flusher says before it is at work goes to `launch.err`, which it removes then: what stays there is the reason of
a launch that came to nothing.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from spool.errors import LockBusyError, SpoolError
from spool.home import Paths, Quarantine, is_for_tests, open_own, read_state, streams_kept_free, write_state
from spool.settings import GUARD, env_prefix, is_set

if TYPE_CHECKING:
    import subprocess

    from spool.launch.program import Program

__all__ = [
    "LAUNCH_PAUSE_S",
    "bounded",
    "child_environment",
    "has_drained",
    "is_due",
    "is_over",
    "launch_if_due",
    "reaped",
    "run",
    "waits",
]

# A flusher takes its lock some 0.3 s after its start. Before that, and if it ends with no result to store, no other
# process knows of it.
LAUNCH_PAUSE_S = 30.0
# No flusher decides to wait longer: a day, if a server asks for it, and some jitter.
_LONGEST_WAIT_S = 27 * 3600.0
# The shell ends at once and leaves the flusher to the system: a host that waits for any child (`os.wait`) never sees
# it, and no zombie is left. A shell takes 1 to 2 ms for that, an interpreter some 20, and forking twice would copy a
# host with threads or a large memory. The flusher starts a moment later and with low priority: the host may be about
# to end, and a person waits for that.
# Its own programs are looked up where the system has them, never in a folder of the host's PATH.
_DETACH = (
    "PATH=/usr/bin:/bin:/run/current-system/sw/bin;"
    ' { sleep 0.2; command -v nice >/dev/null && exec nice -n 10 "$@"; exec "$@"; } &'
)
_SHELL = ("/bin/sh", "-c", _DETACH, "sh")
_REAP_PAUSE_S = 0.0003
# Nobody notices that a flush has ended so much later.
_POLL_S = 0.005
_LONGEST_FLUSH_S = 24 * 3600.0
# Children that took longer than a flush waits.
_left: list[int] = []
# What a flusher needs of a host's environment. The rest could redirect it (PYTHON*, POSTHOG_*, LD_*), or is the host's
# own, as what PyInstaller sets for its child processes.
_BUNDLES = {"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"}  # a flusher has another working folder
_KEPT = {
    "HOME", "PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SYSTEMROOT", "USERPROFILE", "APPDATA", "TEMP",
    "DO_NOT_TRACK", "CI", "NO_PROXY", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY",
    "no_proxy", "all_proxy", "http_proxy", "https_proxy",
    *_BUNDLES,
}  # fmt: skip


def is_due(paths: Paths, now: float, interval_s: float) -> bool:
    """Tell from `flush.json` and the last launch whether an attempt may be made now.

    After a clock was set back, neither waits longer than what was stored.
    """
    state = read_state(paths.flush_state) or {}  # no flush yet, or a broken file, which the next flush mends
    until, delay_s, success = (_number(state.get(name)) for name in ("next_attempt", "delay_s", "last_success"))
    if until is not None and not is_over(until, delay_s or 0.0, now):
        return False
    if success is not None and 0 <= now - success < interval_s:
        return False
    try:
        launched = os.lstat(paths.launched)
    except OSError:
        return True
    return not stat.S_ISREG(launched.st_mode) or not 0 <= now - launched.st_mtime < LAUNCH_PAUSE_S


def is_over(until: float, delay_s: float, now: float) -> bool:
    """Tell whether a stored wait is over: until that moment, and so long as it was decided.

    After a clock was set back the rest would be longer than the whole wait: then it is void, so no clock stops the
    flusher for longer than what was decided, nor does a file that says more than any flusher decides.
    """
    rest_s = until - now
    return rest_s <= 0 or rest_s > min(delay_s, _LONGEST_WAIT_S) + 1.0


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def waits(paths: Paths) -> bool:
    """Tell, without opening the queue, whether something was put into the spool since the last flush ended."""
    try:
        flushed = os.stat(paths.flush_state).st_mtime_ns
    except OSError:
        flushed = 0
    for path in (paths.log, paths.database, paths.aside, paths.spans):
        with suppress(OSError):
            if os.stat(path).st_mtime_ns > flushed:
                return True
    return False


def launch_if_due(app: str, paths: Paths, interval_s: float, reap_s: float) -> int | None:
    """Start a flusher if one may start. Never raises.

    Gives the child, for the caller to reap later, if it has not ended within `reap_s`.
    """
    _reap_left()
    if _is_kept_from(paths):
        return None
    try:
        if not is_due(paths, time.time(), interval_s) or not _claim(paths, interval_s):
            return None
        program = _program(app, paths, "run", "--quiet", "--detached")
        return _spawn(program.words, _environment(app, program), paths, reap_s)
    except Exception as error:  # noqa: BLE001 - the machine refuses, or the queue's lock can't be loaded: the host goes on
        _leave_reason(paths, error)
        return None  # the next start tries again


def _program(app: str, paths: Paths, *arguments: str) -> Program:
    from spool.launch.program import flusher_program  # noqa: PLC0415 - when a flusher is started

    return flusher_program(["--app", app, "--home", str(paths.home), *arguments])


def _environment(app: str, program: Program) -> dict[str, str]:
    return {**child_environment(app, os.environ), **program.variables}


def _leave_reason(paths: Paths, error: Exception) -> None:
    """Say why no flusher could be started, for `status` and `doctor`."""
    if isinstance(error, LockBusyError) or not os.path.isdir(paths.spool):
        return  # one is at work, or the spool has gone
    reason = str(error) if isinstance(error, SpoolError) else f"{type(error).__name__}: {error}"
    with suppress(OSError, SpoolError):
        write_state(paths, paths.launch_errors, reason.encode("utf-8", "backslashreplace") + b"\n")


@contextmanager
def _errors(paths: Paths) -> Iterator[int]:
    """Give an empty `launch.err` for a block, as a descriptor that no child inherits by itself.

    Where it can't be written (the disk is full) it is the null device: delivery is what makes room.
    """
    with streams_kept_free():
        try:
            Quarantine(paths).clear(paths.launch_errors, "file")
            number = open_own(paths.launch_errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        except (OSError, SpoolError):
            number = os.open(os.devnull, os.O_WRONLY)
        try:
            yield number
        finally:
            os.close(number)


def _is_kept_from(paths: Paths) -> bool:
    """Tell whether nothing here may start a flusher for a home: this is one, or a test with the guard kit."""
    return is_set(os.environ.get(GUARD)) or is_for_tests(str(paths.home), os.environ)


def _claim(paths: Paths, interval_s: float) -> bool:
    """Be the only one to start a flusher now; False while one is at work."""
    from spool.queue import FileLock  # noqa: PLC0415 - with the queue, which not every host can load

    Quarantine(paths).clear(paths.flush_lock, "file")
    with FileLock(paths.flush_lock).held(0.0):
        if not is_due(paths, time.time(), interval_s):
            return False
        Quarantine(paths).clear(paths.launched, "file")
        os.close(open_own(paths.launched, os.O_WRONLY | os.O_CREAT))
        now = time.time()  # not the system's time: in a host's test the clock may be another one
        os.utime(paths.launched, (now, now))
        return True


def child_environment(app: str, env: Mapping[str, str]) -> dict[str, str]:
    """Give the part of the host's environment that a flusher gets."""
    prefix = env_prefix(app)
    kept = {name: value for name, value in env.items() if name in _KEPT or name.startswith(prefix + "TELEMETRY_")}
    with suppress(OSError):  # the working folder was deleted
        kept.update({name: os.path.abspath(kept[name]) for name in _BUNDLES & kept.keys() if kept[name]})
    return {**kept, GUARD: "1"}


def bounded(timeout_s: float) -> float:
    """Give a time that can be waited for: what is less than nothing is nothing, and a day is the most."""
    seconds = float(timeout_s)
    return min(max(seconds, 0.0), _LONGEST_FLUSH_S) if seconds == seconds else 0.0  # noqa: PLR0124 - unless it is NaN


def run(app: str, paths: Paths, wait_s: float) -> subprocess.Popen[bytes] | None:
    """Start one pass in a child process, which waits so long for a flusher at work; None where nothing here may.

    Raises what the start may raise.
    """
    if _is_kept_from(paths):
        return None
    import subprocess  # noqa: PLC0415 - some milliseconds, for hosts that wait

    _reap_left()
    try:
        program = _program(app, paths, "run", "--json", "--force", "--wait", f"{wait_s:.3f}")
        with _errors(paths) as errors, streams_kept_free():  # the pipe stays open for a while
            return subprocess.Popen(  # noqa: S603 - our own command line
                program.words, env=_environment(app, program), cwd=paths.spool, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
    except Exception as error:
        _leave_reason(paths, error)
        raise


def has_drained(child: subprocess.Popen[bytes] | None, timeout_s: float) -> bool:
    """Wait at most `timeout_s` for such a child; True if it ended in time and left nothing.

    A child that takes longer goes on by itself, and is reaped at the next flush or launch. Raises what a signal handler
    of the host raises meanwhile, and nothing else.
    """
    if child is None:
        return False
    try:
        if not _ended(child, timeout_s):
            return False
        out, _err = child.communicate()
    finally:
        _let_go(child)
    with suppress(ValueError, AttributeError):  # it could not say what it did
        report = json.loads(out)
        return child.returncode == 0 and report.get("remaining") == 0 and report.get("result") in _DRAINED
    return False


_DRAINED = ("delivered", "nothing to do")


def _ended(child: subprocess.Popen[bytes], wait_s: float) -> bool:
    """Wait at most `wait_s` for a child to end, also where the clock stands still: there `communicate` waits on.

    Its report is short: it fits into the pipe.
    """
    deadline = time.monotonic() + wait_s
    for _ in range(1 + round(wait_s / _POLL_S)):
        if child.poll() is not None:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return False


def _let_go(child: subprocess.Popen[bytes]) -> None:
    """Close the pipe, and take over the reaping of a child that goes on: Popen's destructor would warn of it."""
    if child.stdout is not None:
        child.stdout.close()
    if child.poll() is None:
        _left.append(child.pid)
        child.returncode = 0


def _reap_left() -> None:
    _left[:] = [child for child in _left if not reaped(child)]


def _spawn(arguments: list[str], env: dict[str, str], paths: Paths, reap_s: float) -> int | None:
    """Start a process in its own session, without our streams and descriptors. Gives a child to be reaped, if any."""
    with _errors(paths) as errors:
        if sys.platform == "win32":
            _spawn_without_posix(arguments, env, errors)
            return None
        try:
            child = _posix_spawn([*_SHELL, *arguments], env, errors)
        except OSError:  # a container without a shell: the flusher is our own child
            child = _posix_spawn(arguments, env, errors)
    return None if reaped(child, reap_s) else child


def _posix_spawn(arguments: list[str], env: dict[str, str], errors: int) -> int:
    if sys.platform == "win32":  # its caller knows
        raise OSError("there is no posix_spawn on Windows")
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)),
        (os.POSIX_SPAWN_DUP2, errors, 2),
        *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()),
    ]
    # Held back in this process while the event is put on disk; the flusher gets the default actions.
    ends = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM]
    return os.posix_spawn(
        arguments[0], arguments, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=ends
    )


def _inheritable() -> list[int]:
    """Give the descriptors that children would inherit: whoever reads from such a pipe would wait for the flusher."""
    found: list[int] = []
    with suppress(OSError):  # no such folder
        for number in map(int, os.listdir("/dev/fd")):
            with suppress(OSError):  # that of the listing itself
                found += [number] if number > 2 and os.get_inheritable(number) else []  # noqa: PLR2004 - the streams
    return found


def reaped(child: int, wait_s: float = 0.0) -> bool:
    """Wait at most `wait_s` for a child to end; True when it is reaped."""
    if sys.platform == "win32":  # nobody waits for a child there
        return True
    deadline = time.monotonic() + wait_s
    try:
        for _ in range(1 + round(wait_s / _REAP_PAUSE_S)):  # the clock may stand still
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(_REAP_PAUSE_S)
    except ChildProcessError:  # the host ignores SIGCHLD, or another thread of it waits for all children
        return True
    return False


def _spawn_without_posix(arguments: list[str], env: dict[str, str], errors: int) -> None:
    """Start it on Windows, where nobody waits for any child."""
    import subprocess  # noqa: PLC0415 - Windows only

    flags = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    child = subprocess.Popen(  # noqa: S603 - our own command line
        arguments, env=env, close_fds=True, creationflags=flags, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=errors,
    )  # fmt: skip
    _let_go(child)
