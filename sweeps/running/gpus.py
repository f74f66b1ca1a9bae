"""The GPUs of this machine for the trials of a sweep: who is on which (`packing.py`), and whether they share by MPS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeps.running.mps import Mps, mps_for
from sweeps.running.packing import LISTING, Packing, unit
from sweeps.running.resources import Resources


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """The GPUs of this machine. packing: gives each trial its place; None if trials use no GPU of this machine."""

    packing: Packing | None = None
    mps: Mps = field(default_factory=lambda: Mps(kind="none", environment={}))

    @classmethod
    def ready(cls, resources: Resources, mps: str) -> Gpus:
        """For trials with these resources, with MPS running if several share a GPU. mps: "auto" or "off"."""
        packing = Packing.of(resources)
        if packing is None:
            return NO_GPUS
        there = mps_for(packing.most, mps)
        packing.has_mps = there.kind in ("own", "user's")
        if there.kind == "own":
            packing.number_by_position()
        return cls(packing=packing, mps=there)

    @property
    def told(self) -> list[str]:
        """What to say to the user."""
        return [] if self.mps.told is None else [self.mps.told]

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the workers."""
        return self.mps.environment

    @property
    def for_ray(self) -> dict[str, float]:
        """Ray's resources of this machine, besides those that it finds."""
        return self.packing.for_ray() if self.packing is not None else {}

    def close(self) -> None:
        """End what was started for them, after the workers have ended."""
        self.mps.close()


NO_GPUS = Gpus()


def resources_of(place: Mapping[str, Any] | None, resources: Resources) -> dict[str, float]:
    """What to ask Ray for, for a trial at this place on this machine.

    Without a place it uses no GPU. If the others do, it is recorded and only to be listed: it takes no core from them.
    """
    if place is None and resources.gpus:
        return {LISTING: 1.0}
    return {"CPU": resources.ray_cpus(), **({unit(place["gpu"]): 1.0} if place is not None else {})}
