"""What this project needs of Ray and finds only under private names: one function for each of them.

Seen to work with Ray 2.52 and 2.60. `tests/sweeps/running/test_ray_adapter.py` fails where a new version of Ray has
changed one of the names: then the function here needs another way, and nothing else does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

MODE = "RAY_AUTH_MODE"
ASK_SECONDS = 10.0  # for a head to say whether it accepts a token
Function = TypeVar("Function", bound=Callable[[dict[str, Any]], None])
FLAGS = "lottery_sweep"  # namespace in Ray's control store
ANSWER_SECONDS = 2.0  # for the control store


def dead_processes() -> list[str]:
    """Kinds of Ray's own processes (raylet, gcs_server, ...) that this process has started and that have died.

    Ray's public interface asks the cluster, which does not answer when they are dead.
    """
    from ray._private.worker import _global_node

    return [str(kind) for kind, _ in _global_node.dead_processes()] if _global_node is not None else []


def bootstrap_address(address: str) -> str | None:
    """Host and port that `ray.init(address)` would connect to, found as Ray finds it; None for a Ray of its own.

    Raises `ValueError` or `ConnectionError` where there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address

    found = canonicalize_bootstrap_address(address)
    return None if found is None else str(found)


def node_providers() -> list[str]:
    """The `provider.type` values that a launcher file may have; its schema does not list them."""
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    return sorted(_NODE_PROVIDERS)


def address_of_local_node() -> str | None:
    """Host and port of the head that the last `ray start` on this machine joined, whether or not it still answers."""
    from ray._private.utils import read_ray_address

    found = read_ray_address()
    return None if found is None else str(found)


def read_environment_again() -> None:
    """Let the Ray in this process follow its environment variables of now: it keeps what it found at its import.

    Concerned are the mode of authentication, the token, and whether its address is that of the loopback interface.
    Ray does the first itself (`ray._private.authentication.authentication_token_setup`). Not while Ray is running.
    """
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
    )


def wants_other_token(address: str) -> bool:
    """Whether the head at this host and port refuses the token of this process, or misses one.

    False where that cannot be seen: without the package grpcio, or where it does not answer. Ray itself retries for
    half a minute, and says only that it could not connect.
    """
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    try:
        import grpc  # of ray[default]
    except ImportError:
        return False
    said = AuthenticationTokenLoader.instance().get_token_for_http_header() if _uses_tokens() else {}
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.InternalKVGcsService/InternalKVGet")
        try:
            ask(b"", timeout=ASK_SECONDS, metadata=[(name.lower(), value) for name, value in said.items()])
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _uses_tokens() -> bool:
    """Whether the mode of authentication is "token" and there is one."""
    from ray._raylet import (  # type: ignore[attr-defined]
        AuthenticationMode,
        AuthenticationTokenLoader,
        get_authentication_mode,
    )

    return get_authentication_mode() == AuthenticationMode.TOKEN and AuthenticationTokenLoader.instance().has_token()


def use_own_token() -> None:
    """Use the token of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, if there is one.

    Ray does so for a cluster on this machine, but not for an address. Nothing changes where RAY_AUTH_MODE is set.
    """
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    if MODE not in os.environ and AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        os.environ[MODE] = "token"
        read_environment_again()


# -- processes and signals -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def shielded(signals: Collection[signal.Signals]) -> Iterator[None]:
    """Let the processes that `ray.init` starts in this block, and all that they start, be deaf to these signals.

    A signal to the whole process group, or to every process of a job, would otherwise end Ray before its trials have
    stored what they have. Ray does the same for SIGINT. This process keeps its handler of SIGTERM, which `ray.init`
    replaces.
    """
    from ray._private import services

    plain = services.ConsolePopen

    class Shielded(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, preexec_fn: Any = None, **more: Any) -> None:
            def before_start() -> None:
                if preexec_fn is not None:
                    preexec_fn()
                signal.pthread_sigmask(signal.SIG_BLOCK, signals)

            super().__init__(*args, preexec_fn=before_start, **more)

    services.ConsolePopen = Shielded
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        services.ConsolePopen = plain
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def trials_on_idle_workers() -> Iterator[None]:
    """Within this block, trials of Tune run on the workers that Ray has started before anything needed them.

    Tune asks for workers that have some environment variables of this process, and Ray starts new ones for that. On
    this machine all workers have the variables of this process anyway.
    """
    import ray
    from ray.tune.execution.class_cache import _ActorClassCache

    plain = _ActorClassCache.get

    def get(self: Any, trainable: Any) -> Any:
        if trainable not in self._cache:
            self._cache[trainable] = ray.remote(trainable)
        return self._cache[trainable]

    _ActorClassCache.get = get
    try:
        yield
    finally:
        _ActorClassCache.get = plain


@contextlib.contextmanager
def workers_that_wait(most: Callable[[Mapping[str, float]], int]) -> Iterator[None]:
    """Within this block Tune lets workers without a trial wait for their next one, up to `most(resources)` of them.

    By itself it lets one wait in all, and none while a trial needs other resources. But a worker that begins anew has
    to load its data and, on a GPU, to make its graphs: seconds each time that several trials end at once.
    """
    from ray.tune.execution import tune_controller

    plain = tune_controller._ObjectCache

    class Waiting(plain):  # type: ignore[misc, valid-type]
        def cache_object(self, key: Any, obj: Any) -> bool:
            if len(self._cached_objects[key]) >= most(key.required_resources):
                return bool(super().cache_object(key, obj))
            self._cached_objects[key].append(obj)
            self._num_cached_objects += 1
            return True

        def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
            for key, objects in self._cached_objects.items():
                stay = 0 if force_all else max(self._max_num_objects[key], most(key.required_resources))
                while len(objects) > stay:
                    self._num_cached_objects -= 1
                    yield objects.pop(0)

    tune_controller._ObjectCache = Waiting
    try:
        yield
    finally:
        tune_controller._ObjectCache = plain


@contextlib.contextmanager
def uncounted_callbacks() -> Iterator[None]:
    """Within this block Tune does not count callbacks for Ray's usage statistics, which a sweep does not send.

    To count those of MLflow and of Weights & Biases it imports both: two seconds, if they are installed.
    """
    from ray.air._internal import usage

    plain = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = plain


@contextlib.contextmanager
def results_without_tables() -> Iterator[None]:
    """Within this block Tune does not read all reports of all trials when it has ended, to make a table of each.

    No command looks at these tables. Whoever opens the experiment later gets them.
    """
    from ray.tune import ExperimentAnalysis

    plain = ExperimentAnalysis._fetch_trial_dataframes
    ExperimentAnalysis._fetch_trial_dataframes = lambda analysis: {}
    try:
        yield
    finally:
        ExperimentAnalysis._fetch_trial_dataframes = plain


def before_first_trial(action: Callable[[], None]) -> Callable[[Function], Function]:
    """Let Tune call `action` in the main thread of a worker that trains with this function, before its first trial."""

    class First:
        def setup(self, config: dict[str, Any]) -> None:
            action()
            super().setup(config)  # type: ignore[misc]

    def mark(function: Function) -> Function:
        function.__mixins__ = (First,)  # type: ignore[attr-defined]  # bases for the class that Tune makes of it
        return function

    return mark


def is_connected() -> bool:
    """Whether this process still talks to Ray; when `ray.shutdown` ends Ray's processes, it does not any more."""
    from ray._private.worker import global_worker

    return hasattr(global_worker, "core_worker")


@contextlib.contextmanager
def lost_workers_as_dead() -> Iterator[None]:
    """Within this block, Tune tries again when Ray has ended a worker for want of memory, or lost it with its node.

    Tune expects two kinds of errors of a worker, and ends itself at any other (`RayActorManager._actor_task_failed`).
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import NodeDiedError, OutOfDiskError, OutOfMemoryError, RayActorError, WorkerCrashedError

    plain = RayActorManager._actor_task_failed

    def of_any_death(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError | NodeDiedError | WorkerCrashedError | OutOfDiskError):
            exception = RayActorError(error_msg=str(exception))
        plain(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = of_any_death
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = plain


def list_too(results: Any, others: Iterable[Mapping[str, Any]]) -> None:
    """Add finished trials to the experiment of this `ResultGrid` on disk, as `ExperimentAnalysis` will read it.

    others: name, config, last (the last report) and checkpoint (folder within the trial's, or None) of each; their
    `result.json` is there. Only Ray's own text is parsed here, and no pickle in it is read.
    """
    from ray.train._internal.session import _TrainingResult
    from ray.tune import Checkpoint
    from ray.tune.experiment import Trial

    analysis = results._experiment_analysis
    if not analysis.trials:  # none that shows what a trial of this experiment looks like
        return
    entries = []
    for other in others:
        trial = Trial(
            analysis.trials[0].trainable_name, config=dict(other["config"]), evaluated_params=dict(other["config"]),
            storage=analysis.trials[0].storage, stub=True, _setup_default_resource=False,
        )  # fmt: skip
        trial.storage.trial_dir_name = trial.relative_logdir = trial.custom_dirname = other["name"]
        trial.custom_trial_name = other["name"]
        trial.placement_group_factory = analysis.trials[0].placement_group_factory
        trial.set_status(Trial.TERMINATED)
        last = {**other["last"], "config": trial.config, "trial_id": trial.trial_id, "done": True}
        if other["checkpoint"] is not None:
            path = f"{trial.storage.trial_fs_path}/{other['checkpoint']}"
            found = _TrainingResult(Checkpoint(path, trial.storage.storage_filesystem), last)
            trial.run_metadata.checkpoint_manager.register_checkpoint(found)
        trial.update_last_result(last)
        entries.append(list(trial.get_json_state()))
    with analysis._fs.open_input_stream(analysis._experiment_json_fs_path) as file:
        state = json.loads(file.readall())
    state["trial_data"] += entries
    with analysis._fs.open_output_stream(analysis._experiment_json_fs_path) as file:
        file.write(json.dumps(state).encode())


# -- flags that the driver sets and all workers see ------------------------------------------------------------------


def set_flag(name: str) -> bool:
    """Set a flag in Ray's control store. False if it does not answer."""
    return _in_control_store("internal_kv_put", name.encode(), b"1", True) is not None


def is_flag_set(name: str) -> bool:
    """Whether the flag is set; False if the control store does not answer."""
    return bool(_in_control_store("internal_kv_exists", name.encode()))


def drop_flag(name: str) -> None:
    """Remove a flag; nothing happens if the control store does not answer."""
    _in_control_store("internal_kv_del", name.encode(), False)


def _in_control_store(what: str, *arguments: Any) -> Any:
    from ray.exceptions import GetTimeoutError, RpcError
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    client = internal_kv_get_gcs_client()
    if client is None:  # not connected
        return None
    try:
        return getattr(client, what)(*arguments, FLAGS.encode(), timeout=ANSWER_SECONDS)
    except (RpcError, GetTimeoutError):
        return None
