"""Machines that a sweep is planned for and that are not here: how many trials they run at once, and how fast."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lth_trainable.errors import UserError, bad_value
from sweeps.running.cluster import fitting
from sweeps.running.resources import Resources

EXPECTED = "a number and a device, such as '8 x H100' or '64 x CPU', or a launcher file such as cluster.yaml"
_CPUS = ("cpu", "cpus", "core", "cores")
_PLENTY = 1_000_000  # CPU cores, where only GPUs are said


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Machines elsewhere.

    words: for people. nodes: amounts of "CPU" and "GPU" of each machine; None if they are unknown. device: a part of
    the name of their GPUs, in lower case; "" for any. assumed: what is taken for granted, in words.
    """

    words: str
    nodes: tuple[Mapping[str, float], ...] | None
    device: str = ""
    assumed: tuple[str, ...] = ()

    def slots(self, resources: Resources) -> int | None:
        """Trials that run at once; None if that is unknown. Raises `UserError` if not one fits."""
        if self.nodes is None:
            return None
        if self.device and not resources.gpus:
            raise bad_value("gpus-per-trial", 0, f"a part of a GPU for each trial, such as 0.25, for {self.words}")
        fit = sum(fitting(node, resources) for node in self.nodes)
        if not fit:
            asked = f"--cpus-per-trial {resources.cpus}, --gpus-per-trial {resources.gpus:g}"
            raise UserError(f"on: {self.words} has no room for a trial ({asked}); ask for less, or plan for more")
        return min(fit, resources.max_concurrent or fit)

    def assumptions(self, resources: Resources) -> list[str]:
        """What the time rests on besides its measurement."""
        shared = []
        if 0 < resources.gpus < 1:
            shared = [f"trials that share a GPU ({resources.on_a_gpu} each) are as fast as the measured ones"]
        return [*self.assumed, *shared, "no training states are stored for these devices yet"]


def hardware_of(text: str) -> Hardware:
    """The hardware that `--on` names. Raises `UserError`."""
    if text.endswith((".yaml", ".yml")):
        return of_launcher_file(Path(text))
    found = re.fullmatch(r"\s*(\d+)\s*(?:[x×*]\s*)?([A-Za-z].*?)\s*", text)
    if found is None or int(found[1]) < 1:
        raise bad_value("on", text, EXPECTED)
    number, name = int(found[1]), found[2]
    if name.lower() in _CPUS:
        return Hardware(
            words=f"{number} x CPU", nodes=({"CPU": number},), assumed=("cores are as fast as the measured ones",)
        )
    return Hardware(
        words=f"{number} x {name}", nodes=({"CPU": _PLENTY, "GPU": number},), device=name.lower(),
        assumed=("there are CPU cores enough for the trials",),
    )  # fmt: skip


def of_launcher_file(file: Path) -> Hardware:
    """The machines that the cluster of a launcher file has when it is as large as it may be. Raises `UserError`."""
    import yaml

    try:
        content: Any = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # the last: of deep lists
        raise bad_value("on", str(file), EXPECTED, f"it cannot be read: {' '.join(str(error).split())}") from error
    types = content.get("available_node_types") if isinstance(content, dict) else None
    if not isinstance(types, dict) or not all(isinstance(entry, dict) for entry in types.values()):
        return Hardware(words=f"the cluster of {file}", nodes=None)  # machines of one's own: it names no sizes
    nodes = _largest(types, str(content.get("head_node_type")), int(content.get("max_workers", 2)))
    return Hardware(words=f"the cluster of {file}", nodes=nodes, assumed=("all of its workers are there",))


def _largest(types: Mapping[str, Any], head: str, most: int) -> tuple[Mapping[str, float], ...] | None:
    """Resources of the head and of at most `most` workers, in the file's order; None if the file leaves some to Ray."""
    if any(not isinstance(entry.get("resources"), dict) for entry in types.values()):
        return None
    workers: Sequence[Mapping[str, float]] = [
        entry["resources"]
        for name, entry in types.items()
        for _ in range(0 if name == head else int(entry.get("max_workers", most)))
    ]
    heads = [types[head]["resources"]] if head in types else []
    return (*heads, *workers[:most])
