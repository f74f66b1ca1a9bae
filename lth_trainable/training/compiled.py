"""A trial's network through `torch.compile`: fewer, larger kernels, which take tens of seconds to make.

Only training steps and evaluations are compiled. Whatever else passes images through the network (a criterion, a count
of multiply-adds) sets hooks, which compiled code would not call. Each shape of a batch is compiled by itself, so bytes
do not depend on which shapes came before. CUDA graphs are made by `captured.py`, not by the compiler.

What PyTorch's compiler does not document is in this file: the call of a module that it replaces, and its settings.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lth_trainable.errors import UserError
from lth_trainable.silence import pulse

BACKEND: str | Callable[..., Any] = "inductor"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
CHOSEN = os.environ.get(CACHE_VARIABLE)  # by the user: when PyTorch's compiler is imported, it sets the variable itself
BEAT_SECONDS = 1.0  # between two signs of life of a compilation
LONGEST = 1800  # of them; a compilation that takes longer counts as silent
MOST_VERSIONS = 1024  # of one function: shapes, training or not, networks of one class; PyTorch's default is 8

_calls: weakref.WeakKeyDictionary[nn.Module, Callable[..., Any]] = weakref.WeakKeyDictionary()  # without the network


def compile_network(model: nn.Module, threads: int) -> None:
    """From here on the network is compiled within `compiled(model)`. Its modules, names and pickles stay as they are.

    threads: of the CPU. Networks of one architecture share what has been compiled for one of them.
    """
    import torch._inductor.config as inductor

    options: dict[str, Any] = {"triton.cudagraphs": False, "fallback_random": True, "cpp.threads": threads}
    if hasattr(inductor, "deterministic"):
        options["deterministic"] = True  # no choice of a kernel by its time
    _calls[model] = torch.compile(
        _call, backend=BACKEND, dynamic=False, options=options if BACKEND == "inductor" else None
    )


def _call(model: nn.Module, *inputs: Any) -> Any:
    """What is compiled: a call of the network, with its hooks."""
    return model._call_impl(*inputs)


@contextlib.contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Within this block calls of the network run compiled, if it is a compiled one."""
    call = _calls.get(model) if _calls else None
    if call is None:
        yield
        return
    before, model._compiled_call_impl = model._compiled_call_impl, functools.partial(call, model)
    try:
        yield
    finally:
        model._compiled_call_impl = before


def is_compiled(model: nn.Module) -> bool:
    return model in _calls


@contextlib.contextmanager
def compiler_settings(cache: Path) -> Iterator[None]:
    """Within this block the compiler keeps what it makes in a folder, for other processes, and never gives up silently.

    It uses this process only. Where the user has set PyTorch's own variable, or the folder cannot be made, PyTorch
    chooses the folder.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    with contextlib.ExitStack() as stack:
        limits = {"recompile_limit": MOST_VERSIONS, "accumulated_recompile_limit": MOST_VERSIONS}
        stack.enter_context(dynamo.patch({**limits, "fail_on_recompile_limit_hit": True}))
        stack.enter_context(inductor.patch(compile_threads=1))
        stack.enter_context(_signs_of_life())
        if CHOSEN is None:
            with contextlib.suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.callback(os.environ.pop, CACHE_VARIABLE, None)
                os.environ[CACHE_VARIABLE] = str(cache)
        yield


@contextlib.contextmanager
def _signs_of_life() -> Iterator[None]:
    """Within this block a compilation, which is one long call between two steps, does not count as silence."""
    from torch._dynamo.callback import callback_handler

    running: list[threading.Event] = []

    def beat(over: threading.Event) -> None:
        for _ in range(LONGEST):
            if over.wait(BEAT_SECONDS):
                return
            pulse.beat()

    def begin(*_: Any) -> None:
        running.append(threading.Event())
        threading.Thread(target=beat, args=running[-1:], daemon=True).start()

    def end(*_: Any) -> None:
        running.pop().set()

    callback_handler.register_start_callback(begin)
    callback_handler.register_end_callback(end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(begin)
        callback_handler.remove_end_callback(end)


def is_compile_error(error: BaseException) -> bool:
    """Whether an error is the compiler's."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return isinstance(error, TorchDynamoException | FailOnRecompileLimitHit)


def cannot_compile(error: BaseException, trial: str, network: str) -> UserError:
    """What to tell of the compiler's error."""
    inner = getattr(error, "inner_exception", error)
    lines = f"{type(inner).__name__}: {inner}".splitlines()
    return UserError(
        f"{trial}: torch.compile cannot compile {network} ({lines[0]}); expected a network that it can; leave out "
        "--compile, or change the network"
    )
