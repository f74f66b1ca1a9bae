"""What is left of Ray Tune in this process when Ray shuts down."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from sweeps.lth_grid import main
from sweeps.running import launch
from sweeps.running.ray_process import wait_for_shutdown
from tests.support.command import ONE_WORKER


@pytest.mark.slow
def test_no_ray_handle_is_left_when_ray_shuts_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle that is let go while Ray shuts down in another thread ends the process. With 1,500 trials it did."""
    from ray import ObjectRef
    from ray.actor import ActorHandle

    left: list[str] = []
    plain = launch.shut_down_ray

    def looked_at() -> None:
        gc.collect()
        left.extend(type(one).__name__ for one in gc.get_objects() if isinstance(one, ObjectRef | ActorHandle))
        plain()

    monkeypatch.setattr(launch, "shut_down_ray", looked_at)
    flags = (
        "--controls", "none", "--epochs", "1", "--rewind-epoch", "0", "--sparsity", "20", "--seeds", "3",
        *ONE_WORKER,
    )  # fmt: skip
    assert main(["digits", *flags, "--storage", str(tmp_path)]) == 0
    wait_for_shutdown()
    assert left == []
