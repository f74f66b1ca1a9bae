"""Where and how a trial runs: not part of its identity, but its bytes may depend on it."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from lth_trainable.data.cache import cache_folder
from lth_trainable.errors import NoRoom, UserError, bad_value
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.fingerprints import of_trial
from lth_trainable.store.store import fingerprint_id
from lth_trainable.training.compiled import compiler_settings
from lth_trainable.training.compiler import check_compiler
from lth_trainable.training.precision import check_precision, tensor_float
from lth_trainable.versions import DISTRIBUTION, project_version, source_sha256

STEPS = ("captured", "eager")
MEMORY_FORMATS = ("channels_last", "contiguous")
DRIVER = Path("/proc/driver/nvidia/version")
_NO_ROOM = (
    "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how a trial runs; none of it is part of its identity.

    data_root: folder of data sets in files. device: a torch device. threads: CPU threads of one trial; results are
    equal bit for bit only for the same number of threads. deterministic: use only kernels with reproducible bytes; on a
    CPU all of them are. step: how a GPU runs a training step, "captured" as one graph or "eager", kernel by kernel;
    both give the same bytes. memory_format: how a GPU lays out the weights and images of networks with convolutions;
    "channels_last" is faster. Files always have PyTorch's own order. profile: measure where the time of a trial goes,
    for its record. trials_on_gpu: that share the GPU, and its memory (`sharing.py`). replicas: networks that are
    trained as one (`cohort.py`), whether there are as many trials or not. compile: pass the network, or the step of
    all networks that are trained as one, through `torch.compile` (`compiled.py`); bytes differ by rounding.
    """

    data_root: Path | None = None
    device: str = "cpu"
    threads: int = 1
    deterministic: bool = False
    step: str = "captured"
    trials_on_gpu: int = 1
    memory_format: str = "channels_last"
    profile: bool = False
    replicas: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("step", STEPS), ("memory_format", MEMORY_FORMATS)):
            if getattr(self, name) not in allowed:
                raise bad_value(name, getattr(self, name), " or ".join(allowed))
        if self.replicas < 1:
            raise bad_value("replicas", self.replicas, "a whole number of at least 1")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Execution:
        """From its fields as JSON has them."""
        root = fields.get("data_root")
        return cls(**{**fields, "data_root": None if root is None else Path(root)})


def execution_like(fingerprint: Mapping[str, Any], data_root: Path | None) -> Execution:
    """The execution that repeats the one of this fingerprint, as far as this machine is like that one."""
    device = fingerprint["device"].partition(":")[0]
    deterministic = fingerprint["deterministic"] and device != "cpu"
    return Execution(
        data_root=data_root, device=device, threads=fingerprint["threads"], deterministic=deterministic,
        memory_format=fingerprint.get("memory_format", "channels_last"), replicas=fingerprint.get("replicas", 1),
        compile=fingerprint.get("compiled", False),
    )  # fmt: skip


@contextlib.contextmanager
def prepared(execution: Execution, precision: str) -> Iterator[None]:
    """Within this block, the process's settings of torch are those of a trial; afterwards as before.

    Raises `UserError` if there is no such device, or if it does not have the precision.
    """
    check_device(execution)
    device = torch.device(execution.device)
    check_precision(precision, device)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(execution.threads)
        stack.enter_context(tensor_float(precision))
        if execution.compile:
            stack.enter_context(compiler_settings(_compiler_cache(execution)))
        if device.type == "cuda":
            if execution.deterministic:
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first use of cuBLAS
            # `use_deterministic_algorithms` would import PyTorch's compiler to tell it, which takes seconds
            stack.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
            torch.set_deterministic_debug_mode("error" if execution.deterministic else "default")
            flags: list[tuple[Any, str, bool]] = [
                (torch.backends.cudnn, "benchmark", False),
                (torch.backends.cudnn, "deterministic", execution.deterministic),
                # nothing reads memory before it is written; to fill it would be a kernel more for each tensor of a step
                (torch.utils.deterministic, "fill_uninitialized_memory", False),
            ]
            for place, name, value in flags:
                stack.callback(setattr, place, name, getattr(place, name))
                setattr(place, name, value)
        yield


def _compiler_cache(execution: Execution) -> Path:
    """Where compiled networks are kept: beside the images, apart for each kind of machine."""
    return cache_folder() / "compiled" / fingerprint_id(fingerprint(replace(execution, replicas=1)))


def check_device(execution: Execution) -> None:
    """Raise `UserError` for a GPU that PyTorch cannot use, or for a compiler that is not there."""
    if execution.compile:
        check_compiler(execution.device)
    if torch.device(execution.device).type == "cuda" and not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise UserError(
            f"device {execution.device}: found no GPU that PyTorch {torch.__version__} (built {built}) can use; "
            "expected one, with its driver; --gpus-per-trial 0 trains on the CPU"
        )


def release(execution: Execution) -> None:
    """Free the GPU memory of a finished trial, whose learner and callbacks refer to each other."""
    if torch.device(execution.device).type == "cuda" and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def is_no_room(error: BaseException) -> bool:
    """Whether an error means that the device's memory is too small; PyTorch has several such errors."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_ROOM)


def no_room(execution: Execution, trial: str) -> NoRoom:
    """The error for a trial that does not fit into memory."""
    device, found = torch.device(execution.device), ""
    if device.type == "cpu":
        return NoRoom(
            f"{trial}: found no memory left on this machine (device cpu); expected room for the trial and its data; "
            "use fewer trials at a time (--max-concurrent) or a smaller --batch-size, or stop what else uses it"
        )
    with contextlib.suppress(RuntimeError):  # a full GPU may not even answer this
        if device.type == "cuda":
            free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(device))
            share = f"1/{execution.trials_on_gpu} of " if execution.trials_on_gpu > 1 else ""
            found = f" ({share}{torch.cuda.get_device_name(device)}, {free:.1f} of {total:.1f} GiB free)"
    return NoRoom(
        f"{trial}: found no memory left on device {execution.device}{found}; expected room for the trial and its "
        "data; use fewer trials on a GPU (--trials-per-gpu 1) or a smaller --batch-size, or stop what else uses it"
    )


def fingerprint(execution: Execution, spec: TrialSpec | None = None) -> dict[str, Any]:
    """What may change the bytes of a result without being part of the trial's identity.

    Without a spec: as far as it is common to all trials that run so; `of_trial` adds the rest.

    Results are only compared or reused if their fingerprints are equal. That of a GPU has the memory format. Where it
    has none, the trial is older than `--precision`, and its convolutions ran in TF32. It has the number of replicas if
    that is not 1, and says if networks are compiled. Raises `UserError` if there is no such device, or no compiler.
    """
    check_device(execution)
    device = torch.device(execution.device)
    on_gpu = {"memory_format": execution.memory_format} if device.type == "cuda" else {}
    found = {
        "code": project_version(),
        "torch": torch.__version__,
        "device": _device_model(device),
        "threads": execution.threads,
        "deterministic": execution.deterministic or execution.device == "cpu",
        **on_gpu,
        **({"replicas": execution.replicas} if execution.replicas > 1 else {}),
        **({"compiled": True} if execution.compile else {}),
    }
    return found if spec is None else of_trial(found, spec)


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of everything that a result depends on. "source": SHA-256 of this package's files."""
    libraries = {name: version(name) for name in ("torch", "fastai", "ray", "numpy", "safetensors")}
    known = {"python": platform.python_version(), DISTRIBUTION: project_version(), **libraries}
    return MappingProxyType({**known, **gpu_versions(), "source": source_sha256("lth_trainable")})


@functools.cache
def driver_version(path: Path = DRIVER) -> str | None:
    """Version of the GPU's driver from its kernel module; None if that is not known."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else None


def gpu_versions() -> dict[str, str]:
    """Versions of CUDA, cuDNN and driver in a process that uses a GPU; unknown ones are omitted."""
    if not torch.cuda.is_initialized():
        return {}
    found = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver_version()}
    return {name: str(value) for name, value in found.items() if value is not None}


def _device_model(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
