"""The private names of Ray that this project needs are there, and do what it needs, in the installed version."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
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
    drop_flag,
    is_connected,
    is_flag_set,
    lost_workers_as_dead,
    node_providers,
    read_environment_again,
    results_without_tables,
    set_flag,
    shielded,
    trials_on_idle_workers,
    uncounted_callbacks,
    workers_that_wait,
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


def test_the_providers_of_launcher_files_are_known() -> None:
    providers = import_module("ray.autoscaler._private.providers")
    assert hasattr(providers, "_NODE_PROVIDERS"), GONE.format(version=ray.__version__, name="_NODE_PROVIDERS")
    assert {"aws", "gcp", "azure", "local", "external"} <= set(node_providers())


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


def test_processes_that_ray_starts_can_be_made_deaf_to_signals() -> None:
    """Ray starts each of its own with this class; tests/end_to_end/test_interrupts.py shows the same of a whole Ray."""
    services = import_module("ray._private.services")
    ask = [sys.executable, "-c", "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"]

    def blocked() -> str:
        before = {"preexec_fn": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})}
        return str(services.ConsolePopen(ask, stdout=subprocess.PIPE, text=True, **before).communicate()[0]).strip()

    mine = signal.getsignal(signal.SIGTERM)
    plain = blocked()
    with shielded((signal.SIGTERM, signal.SIGUSR1)):
        signal.signal(signal.SIGTERM, lambda *_: None)  # as `ray.init` does
        shown = blocked()
    assert (plain, shown) == (f"[{signal.SIGINT!r}]", f"[{signal.SIGINT!r}, {signal.SIGUSR1!r}, {signal.SIGTERM!r}]")
    assert signal.getsignal(signal.SIGTERM) is mine and blocked() == plain


def test_trials_of_tune_take_workers_without_an_environment_of_their_own() -> None:
    """Those that are idle have none. `test_a_killed_worker_is_replaced` sees that a trial runs in one of them."""
    cache = import_module("ray.tune.execution.class_cache")._ActorClassCache

    class Trainable:
        pass

    def environment() -> Any:
        return cache().get(Trainable)._default_options.get("runtime_env")

    with trials_on_idle_workers():
        assert not environment()
    assert environment(), f"Ray {ray.__version__} needs no trials_on_idle_workers any more"


def test_workers_wait_for_their_next_trial_as_many_as_may() -> None:
    """Tune by itself lets one wait in all, and ends it as soon as a trial with other resources is staged."""
    controller = import_module("ray.tune.execution.tune_controller")
    gone = GONE.format(version=ray.__version__, name="tune_controller._ObjectCache")
    assert "_ObjectCache(may_keep_one=True)" in inspect.getsource(controller), gone
    training, listing = (ray.tune.PlacementGroupFactory([{name: 1.0}]) for name in ("CPU", "listing"))

    def left(cache: Any) -> tuple[list[str], list[str]]:
        """What waits of three workers that end their trials, and then while a trial is staged that is listed."""
        for worker in "abc":
            cache.cache_object(training, worker)
        ended = list(cache.flush_cached_objects())
        cache.increase_max(listing)
        return [*"abc"[: cache.num_cached_objects]], [*ended, *cache.flush_cached_objects()]

    assert left(controller._ObjectCache(may_keep_one=True)) == (["a"], ["a"])
    with workers_that_wait(lambda resources: 2 if "CPU" in resources else 0):
        cache = controller._ObjectCache(may_keep_one=True)
    assert left(cache) == (["a", "b"], [])
    assert cache.pop_cached_object(training) == "a" and list(cache.flush_cached_objects(force_all=True)) == ["b"]
    assert cache.num_cached_objects == 0 and controller._ObjectCache(may_keep_one=True).cache_object(listing, "d")


def test_tune_counts_no_callbacks() -> None:
    """It looks the function up in this module when it runs; to count it would import packages that take seconds."""
    usage, tune = import_module("ray.air._internal.usage"), import_module("ray.tune.tune")
    assert "air_usage.tag_callbacks(" in inspect.getsource(tune) and tune.air_usage is usage
    plain = usage.tag_callbacks
    with uncounted_callbacks():
        assert usage.tag_callbacks([object()]) is False
    assert usage.tag_callbacks is plain


def test_tune_reads_no_reports_when_it_has_ended(tmp_path: Path) -> None:
    """Else it reads all that was reported, to make a table of each trial that nobody asks for."""

    analysis = import_module("ray.tune.analysis.experiment_analysis").ExperimentAnalysis
    plain = analysis._fetch_trial_dataframes
    module = import_module("ray.tune.tune")
    assert module.ExperimentAnalysis is analysis and "_fetch_trial_dataframes()" in inspect.getsource(analysis.__init__)
    trial = ray.tune.experiment.Trial("train", stub=True, _setup_default_resource=False)
    (tmp_path / "experiment_state-1.json").write_text("{}")
    with results_without_tables():
        found = analysis(str(tmp_path), trials=[trial])
    assert found.trial_dataframes == {} and analysis._fetch_trial_dataframes is plain
    assert analysis(str(tmp_path), trials=[trial]).trial_dataframes.keys() == {trial.trial_id}


def test_the_control_store_of_ray_has_flags() -> None:
    client = import_module("ray._raylet").InnerGcsClient  # behind `GcsClient`, which passes everything on
    for name in ("internal_kv_put", "internal_kv_exists", "internal_kv_del"):
        assert hasattr(client, name), GONE.format(version=ray.__version__, name=f"InnerGcsClient.{name}")
    assert not is_connected() and not set_flag("a") and not is_flag_set("a")
    drop_flag("a")


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
