"""`--import-ticket`: imported tickets take the place of those that a recipe would find.

The recipe's data, network and optimisation stay as they are; how it finds tickets has no effect. An imported ticket is
a value of the axis "ticket", and brings its sparsity and the layers that it prunes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import bad_value
from lth_trainable.models.networks import build_to_plan
from lth_trainable.spec.normalise import IMPORTED_FIELDS
from lth_trainable.spec.ticket_id import SHORT
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from sweeps.experiments.recipes import SELECTIONS, Sweep
from sweeps.experiments.split_seeds import FIELD as SPLIT
from sweeps.experiments.split_seeds import OWN

if TYPE_CHECKING:
    from torch import nn

    from lth_trainable.tickets.imported import ImportedTicket

IDLE = (
    *IMPORTED_FIELDS,
    "target_sparsity_pct",
    "reset_end",
)  # fields that an imported ticket already decides
_OWN = (*IDLE, "rewind_epoch", "layers")  # fields of a recipe that describe its own tickets
_DIGEST = re.compile(rf"[0-9a-f]{{{SHORT},64}}")
CLAIM = "Do the imported tickets match the dense network, over orders of the data?"
SEEDS_ARE_ORDERS = (
    "the initial weights are imported, so the seeds only change the order of the data: the verdict is about the "
    "imported tickets alone, not about others that were found in the same way"
)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files that `--import-ticket` and `--import-masks` name."""

    tickets: tuple[str, ...]
    masks: tuple[Path, ...]

    def check(self) -> None:
        """Raise `UserError` for masks without a ticket, and for a path that a job on a cluster could not find."""
        if self.masks and not self.tickets:
            raise bad_value("--import-masks", str(self.masks[0]), "--import-ticket with the weights")
        for text in (*self.tickets, *map(str, self.masks)):
            if not Path(text).is_absolute() and not _DIGEST.fullmatch(text):
                raise bad_value(
                    "--import-ticket", text, "an absolute path that all nodes share, or the digest of a stored ticket",
                    "a job has its own working directory, which is deleted when it ends",
                )  # fmt: skip


def without_own_tickets(sweep: Sweep, axes: Mapping[str, Sequence[Any]], flags: Mapping[str, str]) -> Sweep:
    """The sweep without its fields about tickets. axes: those of the command line. flags: the flag of each axis.

    Raises `UserError` for a flag that cannot be combined with an imported ticket.
    """
    for name in IDLE:
        if axes.get(name):
            flag = f"--{flags[name].replace('_', '-')}"
            raise bad_value(
                flag, " ".join(map(str, axes[name])), "no such flag with --import-ticket", "the mask is imported"
            )
    return replace(
        sweep, name=f"{sweep.name}_import", claim=CLAIM,
        base={name: value for name, value in sweep.base.items() if name not in _OWN},
        axes={name: values for name, values in sweep.axes.items() if name not in _OWN},
        selects=sweep.selects if sweep.selects in SELECTIONS.values() else Sweep.selects, baselines=Sweep.baselines,
    )  # fmt: skip


def import_tickets(
    sweep: Sweep, files: Files, store: Store, data_root: Path | None
) -> tuple[Sweep, tuple[ImportedTicket, ...], tuple[str, ...]]:
    """Read the tickets: the sweep with them as its axes, the tickets themselves, and notes on them for the user.

    Nothing is written. Raises `UserError` if a ticket cannot be read or does not fit the sweep's network.
    """
    from lth_trainable.tickets.fit import layers_of, selected

    if files.masks and len(files.masks) != len(files.tickets):
        raise bad_value("--import-masks", len(files.masks), f"as many as tickets, in their order: {len(files.tickets)}")
    model = _network(sweep, data_root)
    masks = files.masks or (None,) * len(files.tickets)
    tickets = [_read(text, mask, model, store) for text, mask in zip(files.tickets, masks, strict=True)]
    asked = _one(sweep, "layers") if "layers" in sweep.axes else None
    points, notes = [], []
    for ticket in tickets:
        layers = layers_of(ticket, model, asked)
        names = selected(model, layers)
        target = _rounded_pct(float(100 * ticket.sparsity(names)))
        for epoch in sweep.axes.get("rewind_epoch", (None,)):
            k = None if epoch is None else _epoch(epoch)
            points.append({"ticket": str(ticket.id(k)), "target_sparsity_pct": target, "layers": layers})
        notes.append(_note(ticket, layers, target))
    own, of_recipe = tuple(points[0]), sweep.selects
    rest = {name: values for name, values in sweep.axes.items() if name not in _OWN}
    axes = {name: tuple(dict.fromkeys(point[name] for point in points)) for name in own}
    return (
        replace(
            sweep,
            axes={**rest, **axes},
            selects=lambda point, all_: {name: point[name] for name in own} in points and of_recipe(point, all_),
        ),
        tuple(tickets),
        (*notes, SEEDS_ARE_ORDERS),
    )


def _read(text: str, masks: Path | None, model: nn.Module, store: Store) -> ImportedTicket:
    from lth_trainable.tickets.fit import fit_ticket
    from lth_trainable.tickets.formats import read_foreign
    from lth_trainable.tickets.imported import find_imported

    path = Path(text).expanduser()
    if not path.exists() and _DIGEST.fullmatch(text):
        ticket = find_imported(store, text)
        ticket.start(model)
        return ticket
    return fit_ticket(read_foreign(path, None if masks is None else masks.expanduser()), model)


def _network(sweep: Sweep, data_root: Path | None) -> nn.Module:
    """The untrained network of the sweep's trials."""
    import torch

    data = load_dataset(_one(sweep, "dataset"), data_root, _one(sweep, "split_seed"), _one(sweep, "image_size"))
    with torch.random.fork_rng():
        return build_to_plan(_one(sweep, "model"), data.shape, len(data.classes))


def _one(sweep: Sweep, name: str) -> Any:
    """The value of a field that all trials share. Raises `UserError` if there are several."""
    values = sweep.axes.get(name, (sweep.base.get(name, getattr(TrialSpec(), name)),))
    if len(values) > 1:
        raise bad_value(f"--{name.replace('_', '-')}", " ".join(map(str, values)), "one value with --import-ticket")
    if name == SPLIT and values[0] == OWN:
        raise bad_value(
            "--split-seed", OWN, "a number with --import-ticket",
            "its mask was found on the training images of one split, which others would test on",
        )  # fmt: skip
    return values[0]


def _epoch(text: str) -> int:
    """The epoch at which training starts on the learning-rate clock, from `--rewind-epoch`."""
    if not str(text).isdecimal():
        raise bad_value("--rewind-epoch", text, "an epoch with --import-ticket: that of the imported weights")
    return int(text)


def _rounded_pct(value: float) -> float:
    """Percent with two decimals, like the rungs of a ladder, or with more if it would read 0 or 100."""
    return next(rounded for digits in range(2, 20) if 0 < (rounded := round(value, digits)) < 100)


def _note(ticket: ImportedTicket, layers: str, target: float) -> str:
    start = (
        "its weights outside the mask are zero, so dense networks start from the seed's own initialisation"
        if ticket.masked
        else "dense networks start from its weights"
    )
    parts = [
        f"{ticket.source}: ticket {ticket.digest[:SHORT]}, {target:g} % of the weights of layers {layers} removed",
        *ticket.notes, *([f"weights of epoch {ticket.epoch}"] if ticket.epoch else []), start,
    ]  # fmt: skip
    return "; ".join(parts)
