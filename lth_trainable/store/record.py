"""Makes the record of a trial from its final state, whichever trial trained it. Does not import torch.

So a trial that ran in Ray and one whose epochs were all trained by other trials get the same kind of record.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lth_trainable.models.flops import costs
from lth_trainable.spec.segments import Segment, recorded_keys
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import canonical_json
from lth_trainable.stopwatch import part
from lth_trainable.store.contents import read_history
from lth_trainable.store.indented import Fixed
from lth_trainable.store.layout import Odd, readable
from lth_trainable.store.store import FORMAT, HISTORY, MANIFEST, MASKS, RECORD, WEIGHTS, Damaged, Sealed, Store, to_json

_NO_MASKS = (2).to_bytes(8, "little") + b"{}"  # an empty safetensors file
OTHER_LAYERS = "layers of another type"
_ATTEMPTS = 10  # to seal a trial that another process is sealing at the same time
_NOT_COMPARED = {"seconds", "trained_by"}  # columns of an epoch that differ from run to run


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A trial's identity in the store: spec, key, segments, and the fingerprint of its training.

    restored: what the record says of a trial that went on from the checkpoint of another with other settings.
    """

    spec: TrialSpec
    key: str
    chain: tuple[Segment, ...]
    fingerprint: Mapping[str, Any]
    restored: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of the trial's folder; a restored trial never has the name of an ordinary one."""
        return self.spec.name if self.restored is None else f"{self.spec.name}-restored-{self.restored['lineage'][:8]}"

    @property
    def state_keys(self) -> dict[str, str]:
        """Keys of the states that the record refers to: initial, final, rewind."""
        return recorded_keys(self.spec, self.chain)


@part("storing")
def can_record(store: Store, trial: Identity) -> bool:
    """Whether every state that the record refers to is stored, and the final one has been evaluated.

    Checks file sizes and reads only the history of the final state.
    """
    try:
        return _sources(store, trial) is not None
    except Damaged:
        return False


def record_trial(
    store: Store,
    run: str,
    trial: Identity,
    *,
    seconds: float = 0.0,
    epochs_trained: int = 0,
    profile: Mapping[str, Any] | None = None,
    gpu: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Seal the trial under `run` from its states; returns the record, or None if a state is missing.

    seconds, epochs_trained: training done by this trial itself; 0 if other trials had done all of it. profile: where
    its time went, if that was measured. gpu: how it shared its GPU (`about_gpu`), which changes nothing else in the
    record. Raises `Damaged` if the history or masks of the final state do not match its manifest.
    """
    sources = _sources(store, trial)
    if sources is None:
        return None
    folders, history = sources
    keys = {which: folder.manifest["key"] for which, folder in folders.items()}
    final = folders["final"]
    masks = store.content(final, MASKS) if MASKS in final.manifest["files"] else _NO_MASKS
    try:
        with readable(HISTORY):
            result, layers = _result(trial.spec, history), _layers(trial.spec, history)
    except Odd as error:
        raise Damaged(final.path, str(error)) from error
    record = {
        "format": FORMAT, "trial": trial.name, "key": trial.key, "spec": trial.spec.canonical(),
        "status": "done" if history["diverged"] is None else "diverged", "reason": history["diverged"],
        "data": history["data"], "states": keys, "epochs": history["rows"], "layers": layers,
        "result": result, "shapes": {name: history["weights"][name]["shape"] for name in _pruned(trial.spec, history)},
        "train_seconds": round(seconds, 4), "epochs_trained": epochs_trained,
        "fingerprint": dict(trial.fingerprint), "versions": history["versions"],
        "sha256": {
            "weights": final.manifest["files"][WEIGHTS]["sha256"], "masks": hashlib.sha256(masks).hexdigest(),
            "metrics": _metrics_digest(history["rows"], result),
        },
        "right": _right(trial.spec, history),
        "all_weights": _all_weights(trial.spec, history), "dead_filters": history.get("dead_filters", {}),
    }  # fmt: skip
    if profile is not None:
        record["profile"] = dict(profile)
    if gpu is not None:
        record["gpu"] = dict(gpu)
    if trial.restored is not None:
        record["restored"] = dict(trial.restored)
    about = {
        "kind": "trial", "trial": trial.name, "key": trial.key, "status": record["status"],
        "states": {which: folder.path for which, folder in folders.items()}, "fingerprint": dict(trial.fingerprint),
    }  # fmt: skip
    _seal(store, store.trial(run, trial.name), {RECORD: to_json(record), MASKS: masks}, about)
    return record


def _seal(store: Store, path: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Seal a trial that another process may be sealing at the same time, with other `train_seconds`.

    Each process checks the folder after its last write, so the last writer leaves a valid folder.
    """
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError, Damaged):
            store.seal(path, files, about)
            folder = store.find(path)
            if folder is not None:
                for name in folder.manifest["files"]:
                    store.content(folder, name)
                return
        store.delete(f"{path}/{MANIFEST}")  # its files come from two records
    raise Damaged(path, "other processes keep rewriting it")


def _sources(store: Store, trial: Identity) -> tuple[dict[str, Sealed], dict[str, Any]] | None:
    found = {which: store.find(store.state(key, trial.fingerprint)) for which, key in trial.state_keys.items()}
    folders = {which: folder for which, folder in found.items() if folder is not None}
    final = folders.get("final")
    if final is None or "initial" not in folders or HISTORY not in final.manifest["files"]:
        return None
    history = read_history(store, final)
    if trial.spec.layers not in history["selections"]:
        raise Damaged(final.path, f"{HISTORY} has no layers {trial.spec.layers}")
    if history.get("diverged"):  # it may have diverged before its rewind point
        return folders, history
    return (folders, history) if history.get("evaluation") and len(folders) == len(found) else None


def _pruned(spec: TrialSpec, history: Mapping[str, Any]) -> list[str]:
    return list(history["selections"][spec.layers])


def _counts(spec: TrialSpec, history: Mapping[str, Any]) -> list[dict[str, int]]:
    """Number of weights kept by parameter name at each level, the dense network first."""
    dense = {name: history["weights"][name]["n"] for name in _pruned(spec, history)}
    return [dense, *history["counts"]]


def _layers(spec: TrialSpec, history: Mapping[str, Any]) -> list[dict[str, Any]]:
    weights = history["weights"]
    return [
        {
            "level": level, "layer": name, "type": weights[name]["type"], "n_weights": weights[name]["n"],
            "n_kept": counts[name],
        }
        for level, counts in enumerate(_counts(spec, history))
        for name in _pruned(spec, history)
    ]  # fmt: skip


def _all_weights(spec: TrialSpec, history: Mapping[str, Any]) -> dict[str, Any] | None:
    """All weights of the network (n), and those that are not pruned by reason; None: an older version trained it."""
    found, weights = history.get("all_weights"), history["weights"]
    if found is None:
        return None
    others = sum(each["n"] for each in weights.values()) - sum(weights[name]["n"] for name in _pruned(spec, history))
    return {**found, "not_pruned": {**found["not_pruned"], **({OTHER_LAYERS: others} if others else {})}}


def _result(spec: TrialSpec, history: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's result. If it diverged, accuracies are null and costs are those until then."""
    counts = _counts(spec, history)
    kept, weights, data = counts[-1], history["weights"], history["data"]
    n_weights, n_kept = sum(weights[name]["n"] for name in kept), sum(kept.values())
    return {
        "sparsity_pct": 100 * (n_weights - n_kept) / n_weights, "n_weights": n_weights, "n_kept": n_kept,
        "collapsed_layers": [weights[name]["layer"] for name, n in kept.items() if n == 0],
        "chance_accuracy": 1 / data["n_classes"],
        **costs(weights, counts, history["rows"], batch_size=spec.batch_size, n_train=data["n_train"]),
        **_at_the_end(history), **_at_early_stop(spec, history),
    }  # fmt: skip


def _at_the_end(history: Mapping[str, Any]) -> dict[str, Any]:
    """Loss and accuracy of the network as it is stored."""
    names = "valid_loss", "valid_accuracy", "test_loss", "test_accuracy", "balanced_accuracy"
    if history["diverged"] is not None:
        return dict.fromkeys(names)
    found = history["evaluation"]
    return dict(zip(names, (*found["valid"], *found["test"], found["balanced_accuracy"]), strict=True))


def _right(spec: TrialSpec, history: Mapping[str, Any]) -> dict[str, str | None]:
    """The images that the network gets right, see `image_bits`. None: it has no such accuracy, or an older version has
    measured it.
    """
    end, best = history["evaluation"] or {}, history["early_stop"] or {}
    if history["diverged"] is not None:
        end = best = {}
    of_end = end.get("right", {})
    return {
        "valid": of_end.get("valid"), "test": of_end.get("test"),
        "early_stop_test": None if spec.reset_end else best.get("test_right"),
    }  # fmt: skip


def _at_early_stop(spec: TrialSpec, history: Mapping[str, Any]) -> dict[str, Any]:
    """At the lowest validation loss of the last level. Censored: that was the last one, so it was still falling."""
    names = (
        "best_valid_accuracy", "early_stop_epoch", "early_stop_iteration", "early_stop_censored",
        "early_stop_valid_loss", "early_stop_valid_accuracy", "early_stop_test_accuracy",
    )  # fmt: skip
    if history["diverged"] is not None or spec.reset_end:  # these would be of the trained network, not of the supermask
        return dict.fromkeys(names)
    best = history["early_stop"]
    level = [row for row in history["rows"] if row["level"] == best["level"]]
    is_last = best["iteration"] == sum(row["iterations"] for row in level)
    values = (
        max(row["valid_accuracy"] for row in level), best["epoch"], best["iteration"], is_last,
        best["valid_loss"], best["valid_accuracy"], best["test_accuracy"],
    )  # fmt: skip
    return dict(zip(names, values, strict=True))


def _metrics_digest(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> str:
    """The SHA-256 of `canonical_json([rows without what is not compared, result])`."""
    text = ",".join([row.text("metrics", _compared) if type(row) is Fixed else _compared(row) for row in rows])
    return hashlib.sha256(f"[[{text}],{canonical_json(dict(result))}]".encode()).hexdigest()


def _compared(row: Mapping[str, Any]) -> str:
    return canonical_json({name: value for name, value in row.items() if name not in _NOT_COMPARED})
