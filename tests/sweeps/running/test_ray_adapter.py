"""The private names of Ray that this project needs are there, and do what it needs, in the installed version."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sweeps.running.ray_adapter import (
    address_of_local_node,
    bootstrap_address,
    dead_processes,
    lost_workers_as_dead,
    read_environment_again,
)

GONE = "Ray {version} has no {name}: sweeps/running/ray_adapter.py needs another way, or pyproject.toml a bound on Ray"


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("ray._private.services", "canonicalize_bootstrap_address", ["addr"]),
        ("ray._private.utils", "read_ray_address", []),
        ("ray._private.node", "Node.dead_processes", ["self"]),
        (
            "ray.air.execution._internal.actor_manager", "RayActorManager._actor_task_failed",
            ["self", "tracked_actor_task", "exception"],
        ),
    ],
)  # fmt: skip
def test_a_private_function_of_ray_takes_what_it_is_given(module: str, name: str, parameters: list[str]) -> None:
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)  # type: ignore[assignment]
    assert callable(found), GONE.format(version=ray.__version__, name=f"{module}.{name}")
    needed = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty]
    assert needed == parameters, f"Ray {ray.__version__}: {name} needs {needed}, and ray_adapter.py gives {parameters}"


def test_without_a_ray_of_this_process_none_of_its_processes_is_dead() -> None:
    worker = import_module("ray._private.worker")
    gone = GONE.format(version=ray.__version__, name="ray._private.worker._global_node")
    assert hasattr(worker, "_global_node"), gone
    assert ray.is_initialized() or dead_processes() == []


def test_an_address_is_found_as_ray_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert bootstrap_address("10.0.0.1:6379") == "10.0.0.1:6379" and bootstrap_address("local") is None
    with pytest.raises(ValueError, match="nowhere"):
        bootstrap_address("nowhere")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert bootstrap_address("auto") == "10.0.0.2:6379"


def test_what_ray_start_leaves_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert address_of_local_node() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.3:6379\n")
    assert address_of_local_node() == "10.0.0.3:6379"


def test_ray_follows_the_environment_of_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray was imported, perhaps by a notebook, before a sweep asks for a token; and the next Ray has another."""
    raylet = import_module("ray._raylet")
    services = import_module("ray._private.services")
    monkeypatch.setenv("HOME", str(tmp_path))  # without a token of the user's
    assert not ray.is_initialized()
    try:
        for token in ("a" * 64, "b" * 64):
            monkeypatch.setenv("RAY_AUTH_MODE", "token")
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
            monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
            read_environment_again()
            assert raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN
            assert raylet.AuthenticationTokenLoader.instance().get_raw_token() == token
            assert services.get_node_ip_address() == "127.0.0.1"
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
            monkeypatch.delenv(name)
        read_environment_again()
    assert raylet.get_authentication_mode() == raylet.AuthenticationMode.DISABLED
    assert not raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)


def test_tune_tries_again_when_ray_has_ended_a_worker_for_want_of_memory() -> None:
    module = import_module("ray.air.execution._internal.actor_manager")
    manager, told = object.__new__(module.RayActorManager), list[Any]()
    manager._failed_actor_ids, manager._cleanup_actor = set(), lambda tracked_actor: None
    actor = SimpleNamespace(actor_id=1, _on_error=lambda *error: told.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda *error: told.append(error))
    low = ray.exceptions.OutOfMemoryError("low on memory")
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):  # else this adapter is not needed any more
        manager._actor_task_failed(task, low)
    with lost_workers_as_dead():
        manager._actor_task_failed(task, low)
    assert [type(error) for _, error in told] == [ray.exceptions.RayActorError] * 2
    assert manager._failed_actor_ids == {1} and str(told[0][1]) == "low on memory"
