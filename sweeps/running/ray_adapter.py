"""What this project needs of Ray and finds only under private names: one function for each of them.

Seen to work with Ray 2.52 and 2.60. `tests/sweeps/running/test_ray_adapter.py` fails where a new version of Ray has
changed one of the names: then the function here needs another way, and nothing else does.
"""

from __future__ import annotations


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
