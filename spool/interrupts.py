"""Signals wait while an event is put on disk, and are delivered right after it.

At the end of a command or of the process the signals that end a program are put off instead: they are sent again a
moment later. Delivered in the middle of our work they would leave a traceback of ours, and another exit code.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import CodeType, FrameType, MappingProxyType
from typing import Any, ParamSpec

__all__ = [
    "ENDS",
    "at_exit",
    "exit_hooks_held",
    "note_handlers",
    "raised_by_handler",
    "signals_held",
    "to_the_end",
    "with_signals_held",
]

P = ParamSpec("P")
Handlers = Mapping[int, Any]

# All but those that tell of a fault in the program itself, and the two that nobody can hold back.
_FAULTS = {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGKILL", "SIGSTOP"}
_HELD = [number for number in signal.Signals if number.name.startswith("SIG") and number.name not in _FAULTS]
# Those by which a person, a terminal or a supervisor ends a program.
ENDS = [number for number in _HELD if number.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK")]
# A process that is about to end has left Python's hands by then; one that goes on gets the signal a little late.
_MOMENT_S = 0.1
# A timer may raise again and again while handlers are set.
_MOST_TRIES = 1_000


class _Block:
    """Whether a block is under way, and in which thread. Only the main thread enters one, so there is one at a time."""

    active = False
    thread: int | None = None
    exchanged: Handlers = MappingProxyType({})


@contextmanager
def signals_held(*, ending: bool = False) -> Iterator[None]:
    """Hold signals back for the block; those that came are delivered at its end. A nested block does nothing.

    An exception that a handler raises inside a transaction would leave it open. Handlers run in the main thread only,
    so other threads need nothing. A mask is enough while the main thread is the only one. Otherwise another thread may
    receive the signal, and CPython would still run the handler in the main thread: then each handler is replaced by one
    that only notes the signal.

    With `ending`, and while an exception raised by a first signal is propagating, the signals that end a program are
    sent again a moment later: by then the host's own code runs, or the process is gone.
    """
    if _Block.active or threading.get_ident() != threading.main_thread().ident:
        yield
        return
    ending = ending or _is_interrupt(sys.exc_info()[1])
    alone = threading.active_count() == 1 and sys.platform != "win32"
    _Block.active, _Block.thread, _Block.exchanged = True, threading.get_ident(), MappingProxyType({})
    try:
        with _masked(ending) if alone else _noted(ending):
            yield
    finally:
        _Block.active = False


def with_signals_held(step: Callable[[], object]) -> None:
    """Do a step in a block of `signals_held`."""
    with signals_held():
        step()


def to_the_end(step: Callable[[], object]) -> None:
    """Do a step of ours at the end of a command or of the process: whole and once, whatever a person presses meanwhile.

    Signals are held with `ending`. Ctrl-C between two lines of ours is put off as well; what a handler of the host's
    raises there is raised after the step.
    """
    begun = pressed = False
    raised: BaseException | None = None
    while not begun:
        try:
            with signals_held(ending=True):
                begun = True
                step()
        except BaseException as error:
            if raised_by_handler(error):
                raised = error
            elif issubclass(type(error), KeyboardInterrupt):
                pressed = True
            else:
                raise
    if raised is not None:
        raise raised
    if pressed:
        _send_later([signal.SIGINT])


def at_exit(step: Callable[[], object]) -> None:
    """Do a step of ours in an exit hook. What a signal raises meanwhile is not shown: Python would only print it."""
    try:
        step()
    except BaseException as error:
        if not (issubclass(type(error), KeyboardInterrupt) or raised_by_handler(error)):
            raise


@contextmanager
def exit_hooks_held(unless: Callable[[], bool]) -> Iterator[None]:
    """Hold signals while the exit hooks run that this block registers.

    `unless` is asked at exit: True if one of them may wait, so that nothing is held. For the quick hooks of libraries
    that the host does not know of: a signal in them would show a traceback that we brought in.
    """
    held = ExitStack()

    def hold() -> None:
        if not unless():
            held.enter_context(signals_held(ending=True))

    atexit.register(at_exit, held.close)
    yield
    atexit.register(at_exit, hold)


@contextmanager
def _masked(ending: bool) -> Iterator[None]:  # noqa: FBT001 - within this module
    if sys.platform == "win32":  # there is no mask on Windows, and nobody asks for one
        yield
        return
    # The mask is read first: the call that sets it may run a handler that raises, after it has set it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        yield
    finally:
        _Block.active = False
        try:
            if ending:
                _put_off_pending(before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _put_off_pending(blocked_before: Collection[int]) -> None:
    if sys.platform != "win32":
        came = [number for number in ENDS if number in signal.sigpending() and number not in blocked_before]
        for number in came:
            signal.sigwait([number])
        _send_later(came)


@contextmanager
def _noted(ending: bool) -> Iterator[None]:  # noqa: FBT001 - within this module
    came: list[tuple[int, FrameType | None]] = []
    exchanged: dict[int, Any] = {}
    _Block.exchanged = exchanged

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    try:
        _exchange(exchanged, note, ending=ending)
        yield
    finally:
        late: set[int] = set()
        try:
            _to_its_end(_set_all, list(exchanged.items()))  # those that end a program last
        finally:
            _Block.active = False
            if ending:  # now that none is noted any more
                late = {number for number, _ in came if number in ENDS and not _is_told(exchanged[number])}
            try:
                _to_its_end(_deliver_all, [one for one in came if one[0] not in late], exchanged)
            finally:
                _send_later(late)


def _exchange(exchanged: dict[int, Any], by: Callable[[int, FrameType | None], None], *, ending: bool) -> None:
    """Put `by` in the place of each handler that may raise; nothing of it in a thread that can't."""
    for number in dict.fromkeys([*ENDS, *_HELD]):
        handler = signal.getsignal(number)
        # A default action ends the process, which can't harm an append; a handler set by C code can't be restored.
        if callable(handler) or (ending and number in ENDS and handler is signal.SIG_DFL):
            exchanged[number] = handler
            try:
                _set(number, by)
            except ValueError as error:
                if raised_by_handler(error):
                    raise
                del exchanged[number]  # no thread but the main one of the main interpreter may
                return


def _set(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Set a handler, with one call more than it takes to put it back: on a full stack this fails, and not that."""
    _set_all([(number, handler)])


def _set_all(handlers: list[tuple[int, Any]]) -> None:
    """Set these handlers, from the last on; each that is set is taken from the list."""
    while handlers:
        signal.signal(*handlers[-1])
        handlers.pop()


def _deliver_all(came: list[tuple[int, FrameType | None]], handlers: Handlers) -> None:
    """Call the handler of each signal that was noted.

    The signal is not raised again: whoever reads the wakeup descriptor (asyncio) was told when it came.
    """
    while came:
        number, frame = came.pop(0)
        if callable(handlers[number]):
            handlers[number](number, frame)
        else:  # the default action
            signal.raise_signal(number)


def _to_its_end(step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do a step again until it has come to its end; what a handler raised meanwhile is raised then.

    The loops are in the step: of one in this `try` some instructions would not be protected by it (Python 3.13).
    """
    raised: BaseException | None = None
    for _ in range(_MOST_TRIES):
        try:
            step(*args, **kwargs)
            break
        except BaseException as error:  # noqa: BLE001 - a handler's own
            raised = error
    if raised is not None:
        raise raised


def _is_told(handler: Any) -> bool:
    """Tell whether a handler does nothing. asyncio's is such: it learns of the signal by the wakeup descriptor."""
    return getattr(handler, "__name__", "") == "_sighandler_noop"


def _send_later(numbers: Collection[int]) -> None:
    """Send signals to the main thread in a moment, from a thread that nobody waits for."""
    if not numbers:
        return
    main, sleep = threading.main_thread().ident, time.sleep

    def send() -> None:
        sleep(_MOMENT_S)
        for number in numbers:
            if sys.platform == "win32" or main is None:
                signal.raise_signal(number)
            else:
                signal.pthread_kill(main, number)  # wakes it from a system call

    try:
        threading.Thread(target=send, name="signals put off", daemon=True).start()
    except RuntimeError:  # no thread to be had
        for number in numbers:
            signal.raise_signal(number)


def _is_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error that is being handled came from a signal, or only leads out of the program."""
    return error is not None and (not issubclass(type(error), Exception) or raised_by_handler(error))


# By signal, the code of the handlers that were seen at the beginning of a command.
_seen: dict[int, CodeType] = {}


def note_handlers() -> None:
    """Remember the handlers of now: one that serves a single time has put another in its place when it raises."""
    for number in ENDS:
        code = _code_of(signal.getsignal(number))
        if code is not None:
            _seen[number] = code


def raised_by_handler(error: BaseException, numbers: Iterable[int] = _HELD) -> bool:
    """Tell whether an error passed through a handler of one of the signals: then it is the host's, not ours."""
    exchanged = _Block.exchanged if _Block.active else {}
    handlers = [exchanged.get(number) or signal.getsignal(number) for number in numbers]
    codes = {code for handler in handlers if (code := _code_of(handler)) is not None}
    codes.update(_seen[number] for number in numbers if number in _seen)
    call = error.__traceback__
    while call is not None:
        if call.tb_frame.f_code in codes:
            return True
        call = call.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    """Give the code of a function, a method, a partial or an object that is called."""
    handler = getattr(handler, "func", handler)
    if not hasattr(handler, "__code__"):  # a method has its function's; of an object, that of its class's `__call__`
        handler = vars(type(handler)).get("__call__")
    code = getattr(handler, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _end_in_child() -> None:
    """End the block in a child that another thread forked: the thread that would have ended it does not exist there."""
    if _Block.active and _Block.thread != threading.get_ident():
        _Block.active = False
        _to_its_end(_set_all, list(_Block.exchanged.items()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)
