"""What a command does at SIGINT, SIGTERM, SIGHUP and SIGUSR1, and when nobody reads its output any more.

A command module installs this before its other imports, which take seconds, and then runs its `main` with it:

    if __name__ == "__main__":
        from lth_trainable import signals

        signals.install()
    ...
    if __name__ == "__main__":
        signals.run(main)

At any moment a signal ends the command with one line, without a traceback, and with the code of `exit_code`. It ends at
once, because everything that is written is written whole or not at all; but within `asking`, as when trials train, the
command is asked to end. A second Ctrl-C ends it at once, there too. Nothing is ever raised: an exception at an
arbitrary place can be lost, or abort a library. Imported as a library, a command leaves signals alone except within
`asking`. This module imports nothing heavy.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from lth_trainable.errors import CLOSED_PIPE, HUNG_UP, INTERRUPTED, STOPPED, TERMINATED
from lth_trainable.plain_letters import PLAIN_LETTERS
from lth_trainable.processes import below, kill

EXIT_CODES = {"SIGINT": INTERRUPTED, "SIGTERM": TERMINATED, "SIGHUP": HUNG_UP, "SIGUSR1": STOPPED}
SIGNALS = {signal.Signals[name] for name in EXIT_CODES if hasattr(signal, name)}
SAME_SECONDS = 0.5  # two signals within this time are one: `timeout` sends its own to the command and to its group
UNDO_SECONDS = 2.0
KEPT = "what is stored is kept: run the same command again"
TRAINED = "what is trained is kept: run the same command again to continue"


class _State:
    """Of this process. name: of the first signal, which came at the time `at`. ask: of the innermost `asking`.

    kept, goes_on: of `run`. said: whether the line about the signal is printed. code: that the command ends with. undo:
    actions of `undoing`. is_hurried: see `hurry`.
    """

    def __init__(self) -> None:
        self.is_program = False
        self.name: str | None = None
        self.at = 0.0
        self.ask: Callable[[str], None] | None = None
        self.kept, self.goes_on, self.said = KEPT, False, False
        self.code: int | None = None
        self.undo: list[Callable[[], Any]] = []
        self.is_hurried = False
        self.ending = threading.Lock()


_state = _State()


def exit_code(name: str) -> int:
    """The exit code of a command that a signal has ended: 130, 143, 129, and 3 for SIGUSR1.

    SIGUSR1 is the warning that a batch system sends before the time of a job is over: like a limit of the command's
    own, it means that the same command continues.
    """
    return EXIT_CODES[name]


def came() -> str | None:
    """The name of the first signal that has come in the last `asking`, or ever, if this process is a command."""
    return _state.name


def said() -> None:
    """The command has printed a line about the signal by itself."""
    _state.said = True


def words(name: str) -> str:
    """What a signal did, for a message: `interrupted`, or `stopped by SIGTERM`."""
    return "interrupted" if name == "SIGINT" else f"stopped by {name}"


# -- a command as a program ------------------------------------------------------------------------------------------


def install() -> None:
    """Handle signals from now on: this process is a command, which imports its modules and then calls `run`."""
    if _state.is_program:
        return
    _state.is_program = True
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # also if Ray replaces the handlers
    threading.Thread(target=_watch, args=(read,), daemon=True, name="signals").start()
    for signum in _handled():
        signal.signal(signum, _handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # Ray starts the driver of a job with SIGINT blocked
    os.register_at_fork(after_in_child=_forget)
    atexit.register(_leave)  # the first to be registered is the last to be called
    sys.stdout, sys.stderr = _without_complaint(sys.stdout, 1), _without_complaint(sys.stderr, 2)


def run(main: Callable[[], int], kept: str = KEPT, goes_on: bool = False) -> NoReturn:
    """Run a command and exit with its code, or with that of a signal.

    kept: what the line about a signal says. goes_on: whether the command continues, without output, when nobody reads
    its output any more. Otherwise it ends, as commands do in `| head`.
    """
    _state.kept, _state.goes_on = kept, goes_on
    try:
        code = main()
    except BaseException as error:
        time.sleep(0.05)  # for `_watch`: the exception may come from a handler that a library has set
        if _state.name is not None:
            _end_now(_state.name)
        if isinstance(error, SystemExit) and isinstance(error.code, int):  # of the parser
            _state.code = error.code
        raise
    if _state.name is not None:  # the command was asked to end
        _flush()
        _end_now(_state.name)
    _state.code = code
    if _state.is_hurried:
        _flush()
        _end(None, code)
    sys.exit(code)


def hurry() -> None:
    """When the command ends, wait for nothing: a thread or a process of it hangs."""
    _state.is_hurried = True


@contextlib.contextmanager
def keeping(kept: str) -> Iterator[None]:
    """Let the line about a signal that comes in this block say this."""
    before, _state.kept = _state.kept, kept
    try:
        yield
    finally:
        _state.kept = before


@contextlib.contextmanager
def undoing(action: Callable[[], Any]) -> Iterator[None]:
    """Call `action` if a signal ends the process in this block. It runs in another thread, for two seconds at most."""
    _state.undo.append(action)
    try:
        yield
    finally:
        _state.undo.remove(action)


# -- while trials train ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def asking(ask: Callable[[str], None]) -> Iterator[None]:
    """In this block the first signal calls `ask` with its name, in any thread; `ask` must bring the block to its end.

    Also in a process that is no command, such as a notebook, if this is its main thread; there, where a second Ctrl-C
    does not end the process, it calls `ask` again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in _handled()}
    if not _state.is_program:
        _state.name = None
    outer, _state.ask = _state.ask, ask
    for signum in before:
        signal.signal(signum, _handle)  # again, for a command: `ray.init` sets its own for SIGTERM
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        _state.ask = outer
        if not _state.is_program:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for signum, handler in before.items():
                signal.signal(signum, handler)


def ignore() -> None:
    """Ignore the signals, in a child process that its parent ends."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


# -- handlers --------------------------------------------------------------------------------------------------------


def _handled() -> list[signal.Signals]:
    """The signals to handle: all but a SIGHUP that is ignored, as by `nohup`, and one whose handler is not Python's."""
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    ignored = handlers.get(signal.SIGHUP) is signal.SIG_IGN
    return [s for s, handler in handlers.items() if handler is not None and not (ignored and s == signal.SIGHUP)]


def _handle(signum: int, frame: FrameType | None) -> None:
    """Of a command, `_watch` does everything; its thread runs whatever the main thread is doing."""
    if not _state.is_program:
        _react(signal.Signals(signum).name)


def _watch(wakeup: int) -> None:
    while True:
        for signum in os.read(wakeup, 64):
            if signum in SIGNALS:
                name = signal.Signals(signum).name
                try:
                    _react(name)
                except Exception as error:  # of `ask`: nothing else will end the command
                    _end(f"{words(name)}; {_state.kept} ({type(error).__name__}: {error})", exit_code(name))


def _react(name: str) -> None:
    now = time.monotonic()
    if _state.name is None:
        _state.name, _state.at = name, now
        if _state.ask is None:
            _end_now(name)
        _state.ask(name)
    elif name == "SIGINT" and now - _state.at > SAME_SECONDS:
        if _state.is_program or _state.ask is None:
            _end_now(_state.name)
        _state.ask(name)


def _end_now(name: str) -> NoReturn:
    _end(None if _state.said else f"{words(name)}; {_state.kept}", exit_code(name))


def end(line: str, code: int) -> NoReturn:
    """Print a line, and end this process and all below it at once, in any thread; with a signal's code if one came."""
    _end(line, code if _state.name is None else exit_code(_state.name))


def _end(line: str | None, code: int) -> NoReturn:
    """Print the line, end all processes below this one, undo what is to be undone, and end this process."""
    if not _state.ending.acquire(blocking=False):
        threading.Event().wait()  # another thread is at it
    if line is not None:
        with contextlib.suppress(OSError):  # nobody reads it
            os.write(2, f"{line}\n".encode())
    kill(lambda: below(os.getpid()))
    with contextlib.suppress(ChildProcessError):  # there is none, or none any more
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    undoing = threading.Thread(target=lambda: [action() for action in reversed(_state.undo)], daemon=True)
    undoing.start()
    undoing.join(UNDO_SECONDS)
    os._exit(code)


def _leave() -> None:
    """Called last: exit before the interpreter takes itself apart, when signals have no handler any more."""
    if _state.code is not None:
        _flush()
        os._exit(_state.code)


def _forget() -> None:
    """In a forked child: signals are its own affair."""
    _state.is_program, _state.name, _state.code, _state.ask = False, None, None, None
    signal.set_wakeup_fd(-1)
    for signum in SIGNALS:
        if signal.getsignal(signum) is _handle:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def only_shows() -> None:
    """The command only shows something, such as its help: it ends, without a word, when nobody reads that."""
    _state.goes_on = False


# -- output that nobody reads ----------------------------------------------------------------------------------------


class _Quiet(io.FileIO):
    """A standard stream that does not raise when its reader has gone."""

    has_reader = True

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            if not _state.goes_on:
                _end(None, CLOSED_PIPE)
            if self.has_reader and self.fileno() != 2:
                self.has_reader = False
                print("note: nobody reads the output any more; the command goes on without it", file=sys.stderr)
            return len(data)


def _without_complaint(stream: Any, number: int) -> Any:
    """The stream, so that nothing is raised when its reader goes, or for a letter that its encoding lacks.

    Unchanged if it is not this standard stream.
    """
    try:
        if stream is None or stream.fileno() != number:
            return stream
        stream.flush()
        raw = _Quiet(number, "w", closefd=False)
        return io.TextIOWrapper(
            raw if stream.write_through else io.BufferedWriter(raw),  # as Python does for -u
            stream.encoding, PLAIN_LETTERS, line_buffering=stream.line_buffering, write_through=stream.write_through,
        )  # fmt: skip
    except (OSError, ValueError):  # closed
        return stream


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or on a full disk
            if stream is not None:
                stream.flush()
