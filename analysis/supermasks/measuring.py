"""Measure the supermasks of one dense network and of the tickets beside it: rows of supermasks.parquet.

One-shot masks compare the dense network's final weights with its initial ones, by each criterion and after each number
of rounds at once. Masks over rounds are those of the tickets, which were trained between the rounds. Beside both stand
random masks with as many weights in each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.barriers.jobs import here
from analysis.supermasks.choice import Seeded
from analysis.supermasks.rounds import sparsities
from analysis.tables.schema import Row
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError, bad_value, unknown_name
from lth_trainable.pruning.criteria import CRITERIA, needs_inputs, reads_previous
from lth_trainable.store.store import Damaged, Store
from lth_trainable.store.trials import load_masks

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from lth_trainable.training.instability import Start

ONE_SHOT, ROUNDS = "one_shot", "rounds"
RANDOM = "random"
MOST_ROUNDS = 100
OF_THE_PAPER = (
    "large_final", "small_final", "large_init", "small_init", "large_init_large_final", "small_init_small_final",
    "magnitude_increase", "movement", "large_final_same_sign", "large_final_diff_sign", "magnitude_increase_same_sign",
    "magnitude_increase_diff_sign",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured. criteria: of the one-shot masks. rounds: numbers of rounds at once.

    device: "cpu" or "cuda"; None for the device of the trial.
    """

    criteria: tuple[str, ...] = OF_THE_PAPER
    rounds: tuple[int, ...] = tuple(range(1, 21))
    data_root: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name in self.criteria:
            if name not in CRITERIA:
                raise unknown_name("criteria", name, CRITERIA)
            if needs_inputs(CRITERIA[name]) or reads_previous(CRITERIA[name]) or name == RANDOM:
                raise bad_value(
                    "criteria", name, "a criterion of initial and final weights alone", _WHY[name == RANDOM]
                )
        for n in self.rounds:
            if not 1 <= n <= MOST_ROUNDS:
                raise bad_value("rounds", n, f"whole numbers from 1 to {MOST_ROUNDS}")


_WHY = {True: "random masks are always measured", False: "it needs more than the final weights"}


def measured(store: Store, run: str, seeded: Seeded, settings: Settings) -> list[Row]:
    """The rows of a network. Raises `UserError` if its weights cannot be read."""
    from lth_trainable.training.copy_task import check_same
    from lth_trainable.training.execution import prepared, release
    from lth_trainable.training.instability import network_of

    dense, spec = seeded.dense, seeded.dense.spec
    execution, fingerprint = here(dense, dense.record["fingerprint"], settings.data_root, settings.device)
    data = load_dataset(spec.dataset, settings.data_root, spec.split_seed, spec.image_size)
    check_same(spec, data.digest, dense.record["key"])
    try:
        with prepared(execution, spec.precision):
            start = network_of(spec, data, execution)
            found = list(_rows(store, seeded, start, settings))
    except Damaged as damage:
        raise UserError(f"{damage}; rerun the sweep's command to repair it") from damage
    finally:
        release(execution)
    about = dense.record["data"]
    common = {
        "run": run, "dataset": spec.dataset, "model": spec.model, "seed": spec.seed, "device": fingerprint["device"],
        **{name: about[name] for name in ("majority_class_accuracy", "n_valid", "n_test")},
    }  # fmt: skip
    return [{**common, **row} for row in found]


def _rows(store: Store, seeded: Seeded, start: Start, settings: Settings) -> Iterator[Row]:
    from lth_trainable.training.instability import stored_tensors
    from lth_trainable.training.supermasks import Ranking, accuracies, kinds_of_layers, treated

    dense = seeded.dense
    initial, final = (
        _on(start.execution.device, stored_tensors(store, str(dense.folder.manifest["states"][part]), start))
        for part in ("initial", "final")
    )
    kinds = kinds_of_layers(start.origin.model)
    weights = treated(initial, list(kinds))

    def rows(trial: str, found: str, criterion: str, n: int, masks: Mapping[str, Tensor]) -> Iterator[Row]:
        for each in accuracies(start, initial, weights, masks):
            yield {
                "trial": trial, "found": found, "criterion": criterion, "round": n, "weights": each.treatment,
                "n_weights": each.n_weights, "n_kept": each.n_kept,
                "weights_left_pct": 100 * each.n_kept / each.n_weights,
                "valid_accuracy": each.valid, "test_accuracy": each.test,
            }  # fmt: skip

    wanted = {n: sparsities(dense.spec.model, kinds, n) for n in settings.rounds}
    for criterion in settings.criteria:
        ranking = Ranking(criterion, list(kinds), initial, final, dense.spec.seed)
        for n, by_layer in wanted.items():
            yield from rows(dense.name, ONE_SHOT, criterion, n, ranking.masks(by_layer))
    random = Ranking(RANDOM, list(kinds), initial, final, dense.spec.seed)
    beside = set()  # weights that random masks keep in each layer
    for n, by_layer in wanted.items():
        masks = random.masks(by_layer)
        beside.add(_counts(masks))
        yield from rows(dense.name, ONE_SHOT, RANDOM, n, masks)
    for ticket in seeded.tickets:
        level, found = max(load_masks(store, ticket.folder).items())
        masks = _on(start.execution.device, _tensors(found))
        yield from rows(ticket.name, ROUNDS, str(ticket.spec.criterion), level, masks)
        if _counts(masks) not in beside and masks.keys() == kinds.keys():
            beside.add(_counts(masks))
            same = {name: 1 - Fraction(kept, masks[name].numel()) for name, kept in _counts(masks)}
            yield from rows(ticket.name, ROUNDS, RANDOM, level, random.masks(same))


def _counts(masks: Mapping[str, Tensor]) -> tuple[tuple[str, int], ...]:
    """How many weights masks keep in each layer."""
    return tuple((name, int(mask.sum())) for name, mask in sorted(masks.items()))


def _tensors(masks: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    return {name: torch.as_tensor(mask) for name, mask in masks.items()}


def _on(device: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
