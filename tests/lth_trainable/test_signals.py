"""Signals and closed pipes of a command, shown with small commands of their own: no Ray, no training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import ROOT
from tests.support.processes import left_after

HEAD = "from lth_trainable import signals; signals.install(); import os, sys, time, subprocess, threading\n"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 3}
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command that imports, then runs `main`, which prints `ready` when the signal may come."""
    begun: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # `nohup make test` has it ignored
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None and process.stdout.readline().strip() == "ready"
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


IMPORTS = "print('ready', flush=True); time.sleep(60)"
MAIN = """
def main():
    print('ready', flush=True)
    time.sleep(60)
    return 0
signals.run(main)
"""
DEAF = """
def main():  # in a call that runs no Python, and no handler of Python's
    print('ready', flush=True)
    import ctypes
    ctypes.CDLL(None).pause()
    ctypes.CDLL(None).sleep(60)
    return 0
signals.run(main)
"""
REPLACED = """
def main():
    import signal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as ray.init does
    print('ready', flush=True)
    time.sleep(60)
    return 0
signals.run(main)
"""


@pytest.mark.parametrize("number", CODES, ids=[signum.name for signum in CODES])
@pytest.mark.parametrize("code", [IMPORTS, MAIN], ids=["while it imports", "while it runs"])
def test_a_signal_ends_a_command_with_one_line_and_its_code(start: Start, code: str, number: signal.Signals) -> None:
    process = start(code)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == CODES[number]
    word = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert err == f"{word}; what is stored is kept: run the same command again\n"


@pytest.mark.parametrize("code", [DEAF, REPLACED], ids=["its main thread is deaf", "a library has taken the handler"])
def test_a_signal_ends_a_command_also_if(start: Start, code: str) -> None:
    process = start(code)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and err.count("\n") == 1 and "Traceback" not in err


def test_no_process_below_the_command_is_left_and_what_is_open_is_undone(start: Start, tmp_path: Path) -> None:
    child = "import os, time; os.fork() and print('ready', flush=True); time.sleep(60)"
    process = start(f"""
    def main():
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); {child}"])
        with signals.undoing(lambda: open({str(tmp_path / "undone")!r}, "w").close()):
            time.sleep(60)
        return 0
    signals.run(main)
    """)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143 and (tmp_path / "undone").exists()
    assert not left_after(process.pid, seconds=1)


ASKED = """
asked = threading.Event()
def main():
    with signals.asking(lambda name: (print("asked by", name, flush=True), asked.set())):
        print('ready', flush=True)
        asked.wait()
        {then}
    return 0
signals.run(main)
"""


@pytest.mark.parametrize("number", CODES, ids=[signum.name for signum in CODES])
def test_asked_to_end_a_command_ends_itself_and_has_the_code_of_the_signal(
    start: Start, number: signal.Signals
) -> None:
    process = start(ASKED.format(then="print('stored'); time.sleep(0.2); signals.said()"))
    os.kill(process.pid, number)
    os.kill(process.pid, number)  # as `timeout` does: to the process and to its group
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (CODES[number], f"asked by {number.name}\nstored\n", "")


def test_a_second_interrupt_ends_it_at_once(start: Start) -> None:
    process = start(ASKED.format(then="time.sleep(60)"))
    process.terminate()
    assert process.stdout is not None and process.stdout.readline() == "asked by SIGTERM\n"
    time.sleep(0.6)
    process.terminate()  # no second request
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and err.startswith("stopped by SIGTERM; what is stored is kept")


def test_imported_as_a_library_it_handles_signals_only_when_asking() -> None:
    code = """
    import os, signal, sys, time
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    import sweeps.recipe, sweeps.status, lth_trainable.check
    from lth_trainable import signals
    assert {s: signal.getsignal(s) for s in before} == before and sys.stdout is sys.__stdout__
    asked = []
    for _ in range(2):
        with signals.asking(asked.append):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
    assert {s: signal.getsignal(s) for s in before} == before
    assert asked == ["SIGTERM", "SIGTERM"], asked
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_forked_child_has_the_handlers_of_python_again(start: Start) -> None:
    process = start("""
    def main():
        import signal
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"!")
            time.sleep(60)
        os.read(read, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        print('ready', flush=True)
        return 0
    signals.run(main)
    """)
    assert process.wait(30) == 0


@pytest.mark.parametrize(("goes_on", "code"), [(False, 141), (True, 0)], ids=["ends", "a command that trains goes on"])
def test_when_nobody_reads_its_output_a_command_says_nothing_and(start: Start, goes_on: bool, code: int) -> None:
    process = start(
        f"""
    def main():
        print('ready', flush=True)
        sys.stdin.read()
        print('more', flush=True)
        threading.Thread(target=lambda: print('more', flush=True)).start()
        return 0
    signals.run(main, goes_on={goes_on})
    """.replace("sys.stdin.read()", "time.sleep(1)")
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(30) == code
    assert err == ("note: nobody reads the output any more; the command goes on without it\n" if goes_on else "")


@pytest.mark.parametrize("module", ["sweeps.lth_grid", "sweeps.lth_search", "analysis", "lth_trainable.check"])
def test_a_command_handles_signals_before_it_imports_what_takes_long(module: str) -> None:
    """At the first moment at which it has a handler for SIGUSR1, none of the heavy modules is there."""
    code = f"""
    import runpy, signal, sys
    from lth_trainable import signals
    def install():
        heavy = {{"numpy", "pandas", "pyarrow", "tyro", "rich", "torch", "ray"}} & set(sys.modules)
        print(sorted(heavy), flush=True)
        raise SystemExit(7)
    signals.install = install
    sys.argv[:] = ["-m"]
    runpy.run_module({module!r}, run_name="__main__", alter_sys=False)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "[]\n"), done.stderr
