"""A trial's network through `torch.compile`: fewer, larger kernels, which take tens of seconds to make.

Only training steps and evaluations are compiled: those of a trial alone, and those of a stack. Whatever else passes
images through the network (a criterion, a count of multiply-adds) sets hooks, which compiled code would not call. Each
shape of a batch is compiled by itself, so bytes do not depend on which shapes came before. CUDA graphs are made by
`captured.py` and `lth_trainable/stacking/replays.py`, not by the compiler.

What PyTorch's compiler does not document is in this file: the call of a module that it replaces, its settings, and
what it is given of a stack.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

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
    _calls[model] = torch.compile(_call, **_how(threads))


def _how(threads: int) -> dict[str, Any]:
    """The compiler, with its settings."""
    import torch._inductor.config as inductor

    options: dict[str, Any] = {"triton.cudagraphs": False, "fallback_random": True, "cpp.threads": threads}
    if hasattr(inductor, "deterministic"):
        options["deterministic"] = True  # no choice of a kernel by its time
    return {"backend": BACKEND, "dynamic": False, "options": options if BACKEND == "inductor" else None}


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


class CompiledFunction:
    """A function of tensors, in dicts and tuples, through the compiler, which gives it no gradients.

    The compiler cannot read everything that a stack calls (`torch.func.vmap` with rules of its own). So for each
    combination of shapes the function is run once, on copies, and what it does with tensors, backward passes included,
    is written down; that is compiled, as a whole or not at all. It may change tensors in place. It must not depend on
    anything else that changes, names in dicts included.
    """

    def __init__(self, function: Callable[..., Any], threads: int) -> None:
        self._function, self._threads = function, threads
        self._versions: dict[Any, tuple[Callable[..., Any], Any]] = {}  # by shapes; with the form of the result

    @torch.no_grad()
    def __call__(self, *arguments: Any) -> Any:
        found, form = tree_flatten(arguments)
        tensors = [value.detach() for value in found]
        key = tuple((value.shape, value.stride(), value.dtype) for value in tensors)
        if key not in self._versions:
            self._versions[key] = self._written_down(tensors, form)
        call, form_of_result = self._versions[key]
        return tree_unflatten(call(*tensors), form_of_result)

    def _written_down(self, tensors: Sequence[Tensor], form: Any) -> tuple[Callable[..., Any], Any]:
        from torch._decomp import get_decompositions
        from torch.fx.experimental.proxy_tensor import make_fx

        results: list[Any] = []

        def flat(*tensors: Tensor) -> list[Tensor]:
            values, form_of_result = tree_flatten(self._function(*tree_unflatten(list(tensors), form)))
            results.append(form_of_result)
            return values

        aten = torch.ops.aten  # what changes a running statistic is not in the signatures of these
        norms = [aten.native_batch_norm, aten.cudnn_batch_norm]
        norms += [aten.native_batch_norm_backward, aten.cudnn_batch_norm_backward]
        without: Any = get_decompositions(norms)
        try:
            with torch.autograd.set_multithreading_enabled(False):
                graph = make_fx(flat, decomposition_table=without)(*map(_copied, tensors))
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # each network fails in its own way
            raise NotWrittenDown(error) from error
        return torch.compile(graph, fullgraph=True, **_how(self._threads)), results[-1]


class NotWrittenDown(Exception):
    """A function that runs, but not while it is written down."""

    def __init__(self, inner_exception: Exception) -> None:
        super().__init__(str(inner_exception))
        self.inner_exception = inner_exception


def _copied(value: Tensor) -> Tensor:
    """A copy laid out in the same way; the tensor itself if its memory overlaps: nobody changes such a one."""
    copy = value.clone()
    return copy if copy.stride() == value.stride() else value


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

    return isinstance(error, TorchDynamoException | FailOnRecompileLimitHit | NotWrittenDown)


def reason(error: BaseException) -> str:
    """The compiler's error in one line."""
    inner = getattr(error, "inner_exception", error)
    return f"{type(inner).__name__}: {inner}".splitlines()[0]


def cannot_compile(error: BaseException, trial: str, network: str) -> UserError:
    """What to tell of the compiler's error."""
    return UserError(
        f"{trial}: torch.compile cannot compile {network} ({reason(error)}); expected a network that it can; leave out "
        "--compile, or change the network"
    )
