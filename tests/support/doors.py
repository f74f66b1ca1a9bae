"""What can be reached of a command's processes: where they listen, and what they answer to whom."""

from __future__ import annotations

import importlib
import os
import pkgutil
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

OBJECTS = [
    ("ray.rpc.ObjectManagerService", name) for name in ("Push", "Pull", "FreeObjects")
]  # Ray generates no module
ANSWER_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Door:
    """A listening socket. process: name of its process. host: the address to which it is bound."""

    process: str
    host: str
    port: int


def processes_of(session: int) -> list[int]:
    """Processes of a session, that of a command started with `start_new_session`, whatever they are named."""
    found = []
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        try:
            if os.getsid(pid) == session:
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


def doors(session: int) -> list[Door]:
    """All listening TCP sockets of the session's processes."""
    import psutil  # of ipykernel

    found = []
    for pid in processes_of(session):
        try:
            process = psutil.Process(pid)
            listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            found += [Door(process=process.name(), host=c.laddr.ip, port=c.laddr.port) for c in listening]
        except psutil.NoSuchProcess:
            continue
    return found


def methods() -> list[tuple[str, str]]:
    """Service and name of everything that one of Ray's processes may ask of another."""
    import ray  # noqa: F401  # puts its protobuf on the path
    from ray.core import generated

    found = list(OBJECTS)
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            services = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR.services_by_name
            found += [(s.full_name, method.name) for s in services.values() for method in s.methods]
    return found


def asked(port: int, wanted: list[tuple[str, str]], token: str | None) -> Counter[str]:
    """gRPC's answers to an empty request of each method, by their status."""
    import grpc

    answers: Counter[str] = Counter()
    said = (("authorization", f"Bearer {token}"),) if token is not None else ()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for service, name in wanted:
            try:
                channel.unary_unary(f"/{service}/{name}")(b"", timeout=ANSWER_SECONDS, metadata=said)
                answers["OK"] += 1
            except grpc.RpcError as error:
                answers[error.code().name] += 1
                if error.code() is grpc.StatusCode.UNAVAILABLE:  # does not speak gRPC
                    break
    return answers


def browsed(port: int, path: str, token: str | None) -> int:
    """The HTTP status of a page."""
    said = {"Authorization": f"Bearer {token}"} if token is not None else {}
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=said)
        return int(urllib.request.urlopen(request, timeout=ANSWER_SECONDS).status)
    except urllib.error.HTTPError as error:
        return error.code


def environment_of(pid: int) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return {name: value for name, _, value in pairs if name}


def refused_to_another_user(socket_path: Path) -> bool:
    """Whether user 65534 (nobody) cannot connect to a Unix socket. Needs root."""
    import socket

    child = os.fork()
    if child == 0:
        code = 9
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            socket.socket(socket.AF_UNIX).connect(str(socket_path))
            code = 0
        except PermissionError:
            code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1), code
    return code == 1
