"""The tables of a run as typed Arrow schemas. Every column carries its unit, source and description into the Parquet.

Columns named `*_pct` are per cent (0..100), `*_pp` percentage points, accuracies fractions (0..1). The one exception
is the pair `start_pct` and `end_pct` of a trial's spec, which keep the name and the meaning that they have in fastai:
parts of the fit, 0..1. A value that does not exist is null, never 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from analysis.tables.columns import BOOL as _BOOL
from analysis.tables.columns import FLOAT as _FLOAT
from analysis.tables.columns import INT as _INT
from analysis.tables.columns import TEXT as _TEXT
from analysis.tables.columns import column as _field
from analysis.tables.columns import spec_fields
from analysis.tables.columns import table_schema as _schema
from analysis.tables.geometry_schema import BARRIERS, OVERLAPS, SIGNS
from lth_trainable.spec.trial_spec import TrialSpec

SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(TrialSpec))
STATUSES = ("done", "diverged", "failed", "missing", "damaged", "excluded")
ROLES = ("ticket", "dense", "control", "baseline")
VERDICTS = ("yes", "no", "undecided")
CLAIMS = (
    "matches", "beats", "faster", "winning", "jackpot", "secondary_prize", "supermask", "largest_matching_sparsity",
)  # fmt: skip

Row = Mapping[str, Any]


def table(name: str, rows: Iterable[Row]) -> pa.Table:
    """Rows as the table `name` of `TABLES`; a column that a row lacks is null there.

    No rows give an empty table with all columns. Raises `KeyError` for a column that the schema does not have, so
    that nothing is dropped silently, and `pyarrow.ArrowInvalid` for a value of another type.
    """
    schema, listed = TABLES[name], list(rows)
    unknown = {key for row in listed for key in row} - set(schema.names)
    if unknown:
        raise KeyError(f"{name}: no column {', '.join(sorted(unknown))} in the schema")
    return pa.Table.from_pylist(listed, schema=schema)


_RUN = _field("run", _TEXT, "name", "folder of the run", "name of the run", nullable=False)
_TRIAL = _field("trial", _TEXT, "name", "plan.json: name", "name of the trial", nullable=False)
_RESULT = "record.json: result"

TRIALS = _schema("trials", "one row a trial, planned or stored", [
    _RUN, _TRIAL,
    _field("key", _TEXT, "SHA-256 (hex)", "plan.json: key", "identity: spec, data and plugged-in code"),
    _field("group", _TEXT, "name", "computed from trial", "the trial's name without its seeds"),
    _field("ladder", _TEXT, "name", "computed from trial", "the group's name without its target sparsity"),
    _field("role", _TEXT, "name", "plan.json: role", f"one of {', '.join(ROLES)}; where the plan does not say, from "
           "the trial's control"),
    _field("parent", _TEXT, "name", "plan.json: parent", "ticket that this trial is a branch of; null for others"),
    *spec_fields(),
    _field("status", _TEXT, "name", "computed", f"one of {', '.join(STATUSES)}", nullable=False),
    _field("reason", _TEXT, "text", "record.json, failure.json, exclusions.json or the store",
           "why it is not done"),
    _field("sparsity_pct", _FLOAT, "per cent (0..100)", f"{_RESULT}.sparsity_pct", "prunable weights that are zero, "
           "measured from the mask in force at the end"),
    _field("n_weights", _INT, "weights", f"{_RESULT}.n_weights", "prunable weights"),
    _field("n_kept", _INT, "weights", f"{_RESULT}.n_kept", "prunable weights left at the end"),
    _field("n_collapsed_layers", _INT, "layers", f"{_RESULT}.collapsed_layers", "layers without a weight left"),
    _field("valid_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.valid_accuracy",
           "accuracy on the validation part after the last epoch"),
    _field("best_valid_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.best_valid_accuracy",
           "best of the epochs on the validation part: chosen after looking, so optimistic"),
    _field("test_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.test_accuracy",
           "accuracy on the test part after the last epoch, looked at once"),
    _field("valid_loss", _FLOAT, "nats", f"{_RESULT}.valid_loss", "mean cross-entropy on the validation part"),
    _field("test_loss", _FLOAT, "nats", f"{_RESULT}.test_loss", "mean cross-entropy on the test part"),
    _field("balanced_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.balanced_accuracy",
           "mean recall over the classes of the test part, after the last epoch"),
    _field("early_stop_epoch", _INT, "epoch", f"{_RESULT}.early_stop_epoch",
           "epoch of the last level in which the validation loss was least"),
    _field("early_stop_iteration", _INT, "iterations", f"{_RESULT}.early_stop_iteration",
           "iterations from the last prune (dense: from the start) to the least validation loss"),
    _field("early_stop_censored", _BOOL, "true or false", f"{_RESULT}.early_stop_censored",
           "true: the loss was least at the level's last validation, so the early stop comes there or later"),
    _field("early_stop_valid_loss", _FLOAT, "nats", f"{_RESULT}.early_stop_valid_loss",
           "mean cross-entropy on the validation part at the early stop"),
    _field("early_stop_valid_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.early_stop_valid_accuracy",
           "accuracy on the validation part at the early stop"),
    _field("early_stop_test_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.early_stop_test_accuracy",
           "accuracy on the test part at the early stop, which the validation part alone chose"),
    _field("epochs_to_dense_accuracy", _INT, "epochs", "analysis.tables.record_rows",
           "epochs since the last prune until the validation accuracy is that of the seed's dense trial at its end"),
    _field("epochs_to_dense_accuracy_censored", _BOOL, "true or false", "analysis.tables.record_rows",
           "true: never in these epochs; null: unknown, no such dense trial is done"),
    _field("epochs_trained", _INT, "epochs", "record.json: epochs_trained", "epochs that this trial trained itself"),
    _field("epochs_total", _INT, "epochs", f"{_RESULT}.epochs_total", "epochs of its whole chain, as if trained alone"),
    _field("train_seconds", _FLOAT, "seconds", "record.json: train_seconds",
           "wall time of what this trial trained itself"),
    _field("seconds_total", _FLOAT, "seconds", "computed from record.json: epochs.seconds",
           "wall time of the epochs of its whole chain, whoever trained them"),
    _field("flops_dense", _FLOAT, "multiply-adds", f"{_RESULT}.flops_dense",
           "theoretical: training of the whole chain, were nothing pruned; conv and linear layers, 3 forward passes"),
    _field("flops_sparse", _FLOAT, "multiply-adds", f"{_RESULT}.flops_sparse",
           "the same where a weight that is zero costs nothing"),
    _field("inference_flops_dense", _FLOAT, "multiply-adds", f"{_RESULT}.inference_flops_dense",
           "theoretical: one picture through the dense network"),
    _field("inference_flops_sparse", _FLOAT, "multiply-adds", f"{_RESULT}.inference_flops_sparse",
           "theoretical: one picture through the network as it ends"),
    _field("n_train", _INT, "pictures", "record.json: data.n_train", "size of the training part"),
    _field("n_valid", _INT, "pictures", "record.json: data.n_valid", "size of the validation part"),
    _field("n_test", _INT, "pictures", "record.json: data.n_test", "size of the test part"),
    _field("majority_class_accuracy", _FLOAT, "fraction (0..1)", "record.json: data.majority_class_accuracy",
           "test accuracy of always answering the commonest class"),
    _field("chance_accuracy", _FLOAT, "fraction (0..1)", f"{_RESULT}.chance_accuracy", "1 / number of classes"),
    _field("data_digest", _TEXT, "SHA-256 (hex)", "record.json: data.digest", "content of the data before the split"),
    _field("state_initial", _TEXT, "SHA-256 (hex)", "record.json: states.initial", "state key of the initial weights"),
    _field("state_rewind", _TEXT, "SHA-256 (hex)", "record.json: states.rewind", "state key of the rewind weights"),
    _field("state_final", _TEXT, "SHA-256 (hex)", "record.json: states.final", "state key of the final weights"),
    _field("sha256_weights", _TEXT, "SHA-256 (hex)", "record.json: sha256.weights", "content of the final weights"),
    _field("sha256_masks", _TEXT, "SHA-256 (hex)", "record.json: sha256.masks", "content of the masks"),
    _field("sha256_metrics", _TEXT, "SHA-256 (hex)", "record.json: sha256.metrics", "content of the metrics"),
    _field("python_version", _TEXT, "version", "record.json: versions.python", "Python that trained it"),
    _field("torch_version", _TEXT, "version", "record.json: versions.torch", "torch that trained it"),
    _field("fastai_version", _TEXT, "version", "record.json: versions.fastai", "fastai that trained it"),
    _field("ray_version", _TEXT, "version", "record.json: versions.ray", "Ray that ran it; null where none did"),
    _field("cuda_version", _TEXT, "version", "record.json: versions.cuda", "CUDA of torch; null on a CPU"),
    _field("cudnn_version", _TEXT, "version", "record.json: versions.cudnn", "cuDNN that trained it; null on a CPU"),
    _field("driver_version", _TEXT, "version", "record.json: versions.driver", "the GPU's driver; null on a CPU"),
    _field("code_version", _TEXT, "version", "record.json: fingerprint.code", "version of this project"),
    _field("code_sha256", _TEXT, "SHA-256 (hex)", "record.json: versions.source", "source files of the package "
           "lth_trainable that trained it"),
    _field("device", _TEXT, "text", "record.json: fingerprint.device", "device that trained it"),
    _field("threads", _INT, "threads", "record.json: fingerprint.threads", "CPU threads of the training"),
    _field("deterministic", _BOOL, "true or false", "record.json: fingerprint.deterministic",
           "only kernels with reproducible bytes"),
])  # fmt: skip

EPOCHS = _schema("epochs", "one row a trial, level and epoch; inherited epochs are rows too", [
    _RUN, _TRIAL,
    _field("level", _INT, "number", "record.json: epochs.level", "prunes before this epoch; 0: dense"),
    _field("epoch", _INT, "epoch", "record.json: epochs.epoch", "position on the learning-rate and data-order clock"),
    _field("step", _INT, "steps", "record.json: epochs.step", "optimiser steps on that clock at the end of the epoch"),
    _field("iterations", _INT, "iterations", "record.json: epochs.iterations",
           "optimiser steps in this epoch; fewer than a pass has where a level is rewound to an iteration within it"),
    _field("lr", _FLOAT, "number", "record.json: epochs.lr", "learning rate in force"),
    _field("train_loss", _FLOAT, "nats", "record.json: epochs.train_loss", "plain mean over the batches of the epoch"),
    _field("valid_loss", _FLOAT, "nats", "record.json: epochs.valid_loss", "mean cross-entropy, validation part"),
    _field("valid_accuracy", _FLOAT, "fraction (0..1)", "record.json: epochs.valid_accuracy",
           "accuracy, validation part"),
    _field("sparsity_pct", _FLOAT, "per cent (0..100)", "record.json: epochs.sparsity_pct", "measured from the mask"),
    _field("seconds", _FLOAT, "seconds", "record.json: epochs.seconds", "wall time of the epoch"),
    _field("trained_by", _TEXT, "name", "record.json: epochs.trained_by", "trial that trained this epoch"),
])  # fmt: skip

LAYERS = _schema("layers", "one row a trial, level and prunable layer", [
    _RUN, _TRIAL,
    _field("level", _INT, "number", "record.json: layers.level", "prunes so far; 0: dense"),
    _field("layer", _TEXT, "name", "record.json: layers.layer", "parameter of the model"),
    _field("type", _TEXT, "name", "record.json: layers.type", "type of the layer"),
    _field("n_weights", _INT, "weights", "record.json: layers.n_weights", "weights of the layer"),
    _field("n_kept", _INT, "weights", "record.json: layers.n_kept", "weights that the mask keeps"),
    _field("sparsity_pct", _FLOAT, "per cent (0..100)", "computed", "100 (1 - n_kept / n_weights)"),
])  # fmt: skip

LEVELS = _schema("levels", "one row a trial and level: its mask, and its training up to the next prune", [
    _RUN, _TRIAL,
    _field("level", _INT, "number", "record.json: layers.level", "prunes so far; 0: dense", nullable=False),
    _field("n_weights", _INT, "weights", "record.json: layers.n_weights", "prunable weights"),
    _field("n_kept", _INT, "weights", "record.json: layers.n_kept", "prunable weights that the mask keeps"),
    _field("sparsity_pct", _FLOAT, "per cent (0..100)", "computed", "100 (1 - n_kept / n_weights)"),
    _field("n_collapsed_layers", _INT, "layers", "computed", "layers without a weight left"),
    _field("n_epochs", _INT, "epochs", "record.json: epochs", "epochs of this level; 0: the next prune came first"),
    _field("n_own_epochs", _INT, "epochs", "record.json: epochs.trained_by", "those of them that this trial trained"),
    _field("seconds", _FLOAT, "seconds", "record.json: epochs.seconds", "wall time of the level's epochs, whoever "
           "trained them"),
    _field("last_epoch", _INT, "epoch", "record.json: epochs.epoch", "its last epoch, on the learning-rate clock"),
    _field("train_loss", _FLOAT, "nats", "record.json: epochs.train_loss", "of its last epoch"),
    _field("valid_loss", _FLOAT, "nats", "record.json: epochs.valid_loss", "after its last epoch"),
    _field("valid_accuracy", _FLOAT, "fraction (0..1)", "record.json: epochs.valid_accuracy", "after its last epoch"),
    _field("best_valid_accuracy", _FLOAT, "fraction (0..1)", "computed", "best of its epochs"),
    _field("early_stop_epoch", _INT, "epoch", "computed", "its first epoch with the least validation loss"),
    _field("early_stop_valid_loss", _FLOAT, "nats", "computed", "validation loss after that epoch"),
    _field("early_stop_valid_accuracy", _FLOAT, "fraction (0..1)", "computed", "validation accuracy after that epoch"),
])  # fmt: skip

_TESTS = "analysis.verdicts.claims"
_UNIT = "that of the column unit"
VERDICT_ROWS = _schema("verdicts", "one row a group of tickets, claim and baseline or control", [
    _RUN,
    _field("group", _TEXT, "name", "computed from trial", "tickets that differ in seeds only", nullable=False),
    _field("ladder", _TEXT, "name", "computed from trial", "groups that differ in their target sparsity only"),
    _field("role", _TEXT, "name", "plan.json: role", "ticket, or baseline: tickets of another method, which are in "
           "families of their own", nullable=False),
    _field("dataset", _TEXT, "name", "spec.dataset", "data set"),
    _field("model", _TEXT, "name", "spec.model", "network"),
    _field("schedule", _TEXT, "name", "spec.schedule", "when is pruned"),
    _field("rewind_epoch", _INT, "epoch", "spec.rewind_epoch", "epoch whose weights the tickets are rewound to"),
    _field("epochs", _INT, "epochs", "spec.epochs", "epochs a level, or of the whole fit"),
    _field("target_sparsity_pct", _FLOAT, "per cent (0..100)", "spec.target_sparsity_pct", "sparsity asked for"),
    _field("sparsity_pct", _FLOAT, "per cent (0..100)", _RESULT, "measured sparsity, mean of the finished tickets"),
    _field("claim", _TEXT, "name", _TESTS, f"one of {', '.join(CLAIMS)}", nullable=False),
    _field("kind", _TEXT, "name", "analysis.verdicts.baselines", "what it is compared with: dense (as many epochs), "
           "dense_stretched (those of all levels), dense_other, dense_restarts, small_dense, omp, lr_rewinding, "
           "fine_tuning, a control, or several"),
    _field("baseline", _TEXT, "name", "computed", "the kind; of plain dense networks dense-e and their epochs",
           nullable=False),
    _field("baseline_group", _TEXT, "name", "computed from trial", "group of the baseline's trials; null: none, or "
           "several"),
    _field("primary", _BOOL, "true or false", "computed", "against dense networks of the tickets' own epochs"),
    _field("endpoint", _TEXT, "name", "plan.json: endpoint, or the claim's own", "column of trials that is compared"),
    _field("n_pairs", _INT, "pairs", "computed", "seeds with finished trials on both sides"),
    _field("n_unpaired", _INT, "seeds", "computed", "seeds of the group that form no pair"),
    _field("unpaired", _TEXT, "text", "computed", "why, with their seeds: trials missing, failed, diverged, damaged or "
           "excluded, other data, no such value"),
    _field("n_censored", _INT, "pairs", "computed", "pairs of which a value is a lower bound only"),
    _field("mean_ticket", _FLOAT, "that of the endpoint", "computed", "mean of the paired tickets"),
    _field("mean_baseline", _FLOAT, "that of the endpoint", "computed", "mean of the trials that they are paired with"),
    _field("effect", _FLOAT, _UNIT, "computed", "mean difference, ticket minus baseline; null where pairs are "
           "censored. Of largest_matching_sparsity the target sparsity"),
    _field("unit", _TEXT, "name", "computed", "percentage points, iterations or per cent"),
    _field("ci_low", _FLOAT, _UNIT, "analysis.stats.paired.t_interval", "lower end of its two-sided 95 % t-interval"),
    _field("ci_high", _FLOAT, _UNIT, "analysis.stats.paired.t_interval", "upper end of its two-sided 95 % t-interval"),
    _field("sd", _FLOAT, _UNIT, "computed", "standard deviation (n - 1) of the differences"),
    _field("hedges_g", _FLOAT, "number", "analysis.stats.paired.hedges_g", "effect size g_z of the paired differences"),
    _field("bound", _FLOAT, _UNIT, _TESTS, "what the mean difference is held against"),
    _field("resolution", _FLOAT, _UNIT, "computed", "least difference of one trial: a picture of the endpoint's part, "
           "or a validation interval"),
    _field("margin_pp", _FLOAT, "percentage points", "plan.json: margin_pp", "how much worse still counts as matching"),
    _field("alpha", _FLOAT, "probability", "plan.json: alpha", "one-sided level of each family"),
    _field("test", _TEXT, "name", _TESTS, "the deciding test: paired t; sign flip where all differences are equal; "
           "sign test where pairs are censored"),
    _field("correction", _TEXT, "text", "analysis.verdicts.families", "how p becomes p_decisive"),
    _field("look", _INT, "seeds", "plan.json: looks", "seeds of the last look taken; null: no plan of looks"),
    _field("p", _FLOAT, "probability", _TESTS, "one-sided p of the claim, of all pairs, before looks and correction"),
    _field("p_decisive", _FLOAT, "probability", "analysis.verdicts.families",
           "the same after looks and correction, held against alpha; null: not tested"),
    _field("p_against", _FLOAT, "probability", _TESTS, "one-sided p of the reverse of the claim"),
    _field("p_against_decisive", _FLOAT, "probability", "analysis.verdicts.families",
           "the same after looks and correction; null: not tested"),
    _field("p_sign_flip", _FLOAT, "probability", "analysis.stats.paired.sign_flip_p",
           "the sign-flip test of p's claim"),
    _field("verdict", _TEXT, "name", _TESTS, f"one of {', '.join(VERDICTS)}: shown, its reverse shown, or neither",
           nullable=False),
    _field("seeds_needed", _INT, "seeds", "analysis.stats.power",
           "seeds in all that would decide it at 80 % power; null: decided, not known, or more than 1,000"),
    _field("why", _TEXT, "text", _TESTS, "the reason in words", nullable=False),
])  # fmt: skip

TABLES: dict[str, pa.Schema] = {
    "trials": TRIALS, "epochs": EPOCHS, "levels": LEVELS, "layers": LAYERS, "overlaps": OVERLAPS, "signs": SIGNS,
    "barriers": BARRIERS, "verdicts": VERDICT_ROWS,
}  # fmt: skip
