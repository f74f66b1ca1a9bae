"""What a run was made with: data, network, training, pruning, replicates and machine, as rows of words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from analysis.labels import is_own_split
from analysis.tables.schema import Row
from lth_trainable.spec.words import field_words

_LAYERS = {
    "auto": "all convolutions (all linear layers where there are none)",
    "all": "all convolutions and linear layers",
}
_NAMED = 4  # values of one thing that are listed; of more the first and the last are


def set_up(trials: Sequence[Row], versions: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows (what, words) of the set-up table, from rows of trials.parquet; rows of which nothing is known are left out.

    versions: of the packages that planned the run, for where no trial is done.
    """
    if not trials:
        return []
    tickets = [row for row in trials if row["role"] == "ticket"] or list(trials)
    done = [row for row in trials if row["n_train"] is not None]
    in_levels = any(row["schedule"] in ("imp", "omp") for row in tickets)
    rates, policies = _words(trials, "lr", "{:g}".format), _words(trials, "lr_policy", _spaced)
    found = {
        "data": _data(trials, done),
        "network": _listed(_words(trials, "model")),
        "layers that are pruned": _listed(_words(tickets, "layers", lambda name: _LAYERS.get(name, name))),
        "optimiser": _optimiser(trials),
        "learning rate": f"{_listed(rates)}, {_listed(policies)}",
        "batch": _listed(_words(trials, "batch_size", str)),
        "augmentation": _listed(_words(trials, "augment")),
        "epochs a level" if in_levels else "epochs": _listed(_words(tickets, "epochs", str)),
        "pruning": _pruning(tickets),
        "rewound to": _listed(_rewind_points(tickets)),
        "seeds": _seeds(trials),
        "precision": _listed(_words(trials, "precision")),
        "device": _listed(_distinct(row["device"] for row in done)),
        "networks trained as one": _replicas(done),
        "versions": _versions(done) or ", ".join(f"{name} {version}" for name, version in versions),
    }
    return [(what, words) for what, words in found.items() if words]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _distinct(values: Iterable[Any]) -> list[Any]:
    return [value for value in dict.fromkeys(values) if value is not None]


def _words(rows: Sequence[Row], field: str, write: Callable[[Any], str] | None = None) -> list[str]:
    """The values of a field of the spec in words, without repeats, in order of first appearance."""
    values = _distinct(row[field] for row in rows)
    return _distinct((write or (lambda value: field_words(field, value)))(value) for value in values)


def _listed(words: Sequence[str]) -> str:
    if len(words) > _NAMED:
        return f"{words[0]}, ..., {words[-1]} ({len(words)} values)"
    return ", ".join(words)


def _data(trials: Sequence[Row], done: Sequence[Row]) -> str:
    """Name and sizes of the splits; of several data sets the names alone."""
    names = _listed(_words(trials, "dataset"))
    sizes = _distinct((row["n_train"], row["n_valid"], row["n_test"]) for row in done)
    if len(sizes) != 1:
        return names
    train, valid, test = sizes[0]
    images = f"{names}: {train:,} training, {valid:,} validation, {test:,} test images"
    known = [row for row in trials if row["seed"] is not None and row["split_seed"] is not None]
    if is_own_split((row["seed"], row["split_seed"]) for row in known):
        return f"{images} (a split of its own for each seed)"
    return f"{images} (split seed {_listed(_words(trials, 'split_seed', str))})"


def _optimiser(trials: Sequence[Row]) -> str:
    names = {"momentum": "momentum", "beta2": "beta2", "eps": "eps", "weight_decay": "weight decay"}
    more = [f"{words} {_listed([f'{v:g}' for v in _distinct(row[n] for row in trials)])}" for n, words in names.items()]
    return ", ".join([_listed(_words(trials, "optimizer")), *more])


def _pruning(tickets: Sequence[Row]) -> str:
    rates = _distinct(row["prune_rate_pct"] for row in tickets)
    targets = [f"{value:g}" for value in sorted(_distinct(row["target_sparsity_pct"] for row in tickets))]
    parts = [
        _listed(_words(tickets, "schedule")), _listed(_words(tickets, "criterion")),
        f"{_listed([f'{rate:g}' for rate in rates])} % of the weights a level" if rates else "",
        f"to {_listed(targets)} % sparsity" if targets else "",
    ]  # fmt: skip
    return ", ".join(part for part in parts if part)


def _rewind_points(tickets: Sequence[Row]) -> list[str]:
    return _distinct([*_words(tickets, "rewind_epoch"), *_words(tickets, "rewind_step")])


def _seeds(trials: Sequence[Row]) -> str:
    seeds = sorted(_distinct(row["seed"] for row in trials))
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{len(seeds)}: {f'{seeds[0]} to {seeds[-1]}' if whole else _listed([str(seed) for seed in seeds])}"


def _replicas(done: Sequence[Row]) -> str:
    """The numbers of replicas; nothing where every network was trained alone."""
    numbers = sorted(_distinct(row["replicas"] for row in done))
    return "" if numbers == [1] else _listed([str(number) for number in numbers])


def _versions(done: Sequence[Row]) -> str:
    names = {"torch": "torch_version", "fastai": "fastai_version", "Ray": "ray_version", "Python": "python_version"}
    found = {name: _listed(_distinct(row[column] for row in done)) for name, column in names.items()}
    return ", ".join(f"{name} {words}" for name, words in found.items() if words)
