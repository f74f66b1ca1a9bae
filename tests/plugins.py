"""What a user plugs in, as the tests need it: a network with all that is easily forgotten, and things that break."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lth_trainable.pruning.criteria import Weights
from sweeps.running.conclusion import Conclusion
from sweeps.running.loggers import LogFolder, Logger

HANG_AFTER = 60  # batches of training


def tiny_cnn(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """Convolution, BatchNorm with running statistics, dropout, a linear head."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, n_classes),
    )  # fmt: skip


class _Hang(nn.Module):
    """Passes its input on; after HANG_AFTER batches it keeps it, while the file exists that HANG names.

    It leaves another file there, with the number of its process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += self.training
        hang = Path(os.environ.get("HANG", "/nowhere"))
        while self.batches > HANG_AFTER and hang.exists():
            hang.with_suffix(f".{os.getpid()}").touch()
            time.sleep(0.1)
        return x


def hanging_cnn(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A forward pass that does not return, while the file exists that the environment variable HANG names."""
    return nn.Sequential(tiny_cnn(shape, n_classes), _Hang())


def unbuildable_model(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    raise RuntimeError("this network cannot be built")


class _Fails(nn.Module):
    """Passes its input on, but fails at more images than it is tried with before a sweep."""

    def __init__(self, fails: bool, error: Exception) -> None:
        super().__init__()
        self.fails, self.error = fails, error

    def forward(self, x: Tensor) -> Tensor:
        if self.fails and len(x) > 10:
            raise self.error
        return x


def broken_model(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """What is wrong with it shows when it is trained."""
    return nn.Sequential(tiny_cnn(shape, n_classes), _Fails(True, RuntimeError("this network cannot be trained")))


def flaky_model(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """Its training fails until the environment says otherwise."""
    return nn.Sequential(
        tiny_cnn(shape, n_classes), _Fails(os.environ.get("FLAKY") != "works", OSError("the disk is full"))
    )


def square_root(start: float, end: float, pos: float) -> float:
    """A schedule of one's own: most of it early."""
    return start + (end - start) * float(pos) ** 0.5


def there_and_back(start: float, end: float, pos: float) -> float:
    """A schedule of one's own whose sparsity falls again."""
    return start + (end - start) * (1 - abs(2 * float(pos) - 1))


def keep_outer(w: Weights) -> Tensor:
    """A criterion of one's own."""
    return w.now.abs() + w.initial.abs()


def gone_logger(log_folder: LogFolder) -> Logger:
    """A logger of one's own whose server goes after the first trial has begun."""
    from ray import tune

    class Gone(tune.Callback):
        def on_trial_result(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("the server is gone")

    return Logger(callback=Gone(), watch="nowhere")


def judged_logger(log_folder: LogFolder) -> Logger:
    """A logger of one's own that keeps the verdicts: the answer, and the files of each chosen ticket."""
    from ray import tune

    class Judged(tune.Callback):
        def log_verdicts(self, conclusion: Conclusion) -> Iterator[None]:
            lines = [conclusion.answer]
            for trial in conclusion.choice.trials:
                with conclusion.exported(trial) as folder:
                    lines.append(f"{trial}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
                yield
            (log_folder.folder / "judged.txt").write_text("\n".join(lines))

    return Logger(callback=Judged(), watch="judged.txt")


def no_search() -> None:
    """A search that cannot be made."""
    raise RuntimeError("no idea")


def dropout_lenet(shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """A network that draws random numbers in each step of training."""
    n = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(n, 30), nn.ReLU(), nn.Dropout(0.3), nn.Linear(30, n_classes))
