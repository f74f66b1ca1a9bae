"""The tables of a run as Arrow schemas. Unit, source and description of each column are stored in the Parquet files.

Columns named `*_pct` are percent (0..100), `*_pp` percentage points, accuracies fractions (0..1). The only exceptions
are `start_pct` and `end_pct` of a spec, which have the name and the meaning that they have in fastai: fractions of the
fit, 0..1. A value that does not exist is null, never 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from analysis.tables.columns import BOOL, BYTES, FLOAT, INT, TEXT, column, spec_fields, table_schema
from analysis.tables.geometry_schema import BARRIERS, CONNECTIONS, OVERLAPS, SIGNS
from analysis.tables.profile_schema import profile_columns
from analysis.tables.published_schema import PUBLISHED
from analysis.tables.supermask_schema import SUPERMASKS
from analysis.tables.variance_schema import VARIANCES
from lth_trainable.spec.trial_spec import TrialSpec

SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(TrialSpec))
DIVERGED = "diverged"
RESTORED = "restored"  # status of a trial that went on from the checkpoint of another one with other settings
STATUSES = ("done", DIVERGED, "failed", "missing", "damaged", "excluded", RESTORED)
ROLES = ("ticket", "dense", "control", "baseline")
VERDICTS = ("yes", "no", "undecided")
HEADLINES = (BEATS, MATCHES, LOWER, FALLS_SHORT, UNDECIDED) = (
    "beats", "matches", "within the margin, lower", "falls short", "undecided",
)  # fmt: skip
CLAIMS = (
    "matches", "beats", "faster", "winning", "jackpot", "secondary_prize", "supermask", "largest_matching_sparsity",
)  # fmt: skip

Row = Mapping[str, Any]
BATCH = 4096  # rows that are Python objects at the same time, if they come one by one


def table(name: str, rows: Iterable[Row]) -> pa.Table:
    """Rows as the table `name` of `TABLES`. A column that a row lacks is null; no rows give an empty table.

    Raises `KeyError` for a column that the schema does not have, so that nothing is dropped silently, and
    `pyarrow.ArrowInvalid` for a value of another type.
    """
    schema, left = TABLES[name], iter(rows)
    parts = []
    while some := list(itertools.islice(left, BATCH)):
        unknown = {key for row in some for key in row} - set(schema.names)
        if unknown:
            raise KeyError(f"{name}: no column {', '.join(sorted(unknown))} in the schema")
        parts.append(pa.Table.from_pylist(some, schema=schema))
    return pa.concat_tables(parts).combine_chunks() if parts else schema.empty_table()


_RUN = column("run", TEXT, "name", "folder of the run", "name of the run", nullable=False)
_TRIAL = column("trial", TEXT, "name", "plan.json: name", "name of the trial", nullable=False)
_RESULT = "record.json: result"

TRIALS = table_schema("trials", "one row for each trial, planned or stored", [
    _RUN, _TRIAL,
    column("key", TEXT, "SHA-256 (hex)", "plan.json: key", "identity: spec, data and plugged-in code"),
    column("group", TEXT, "name", "computed from trial", "the trial's name without its seeds"),
    column("ladder", TEXT, "name", "computed from trial", "the group's name without its target sparsity"),
    column("role", TEXT, "name", "plan.json: role", f"one of {', '.join(ROLES)}; if the plan does not say, it "
           "follows from control"),
    column("parent", TEXT, "name", "plan.json: parent", "ticket that this trial is a branch of; null for others"),
    *spec_fields(),
    column("status", TEXT, "name", "computed", f"one of {', '.join(STATUSES)}", nullable=False),
    column("reason", TEXT, "text", "record.json, failure.json, exclusions.json or the store",
           "why it is not done"),
    column("sparsity_pct", FLOAT, "per cent (0..100)", f"{_RESULT}.sparsity_pct", "prunable weights that are zero, "
           "measured from the mask at the end"),
    column("n_weights", INT, "weights", f"{_RESULT}.n_weights", "prunable weights"),
    column("n_kept", INT, "weights", f"{_RESULT}.n_kept", "prunable weights left at the end"),
    column("n_collapsed_layers", INT, "layers", f"{_RESULT}.collapsed_layers", "layers without a weight left"),
    column("n_all_weights", INT, "weights", "record.json: all_weights.n", "all weights of the network, biases and "
           "norms too; null: an older version trained it"),
    column("prunable_pct", FLOAT, "per cent (0..100)", "computed", "100 n_weights / n_all_weights"),
    column("pruned_of_all_pct", FLOAT, "per cent (0..100)", "computed", "100 (n_weights - n_kept) / n_all_weights"),
    column("not_pruned", TEXT, "text", "record.json: all_weights.not_pruned", "the other weights by the reason why "
           "they are not pruned, the most first"),
    column("n_dead_filters", INT, "filters", "record.json: dead_filters", "filters of depthwise convolutions without "
           "a weight left; null: an older version trained it"),
    column("valid_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.valid_accuracy",
           "accuracy on the validation split after the last epoch"),
    column("best_valid_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.best_valid_accuracy",
           "best epoch on the validation split: chosen after the fact, so optimistic"),
    column("test_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.test_accuracy",
           "accuracy on the test split after the last epoch, which is used only once"),
    column("valid_loss", FLOAT, "nats", f"{_RESULT}.valid_loss", "mean cross-entropy on the validation split"),
    column("test_loss", FLOAT, "nats", f"{_RESULT}.test_loss", "mean cross-entropy on the test split"),
    column("balanced_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.balanced_accuracy",
           "mean recall over the classes of the test split, after the last epoch"),
    column("early_stop_epoch", INT, "epoch", f"{_RESULT}.early_stop_epoch",
           "epoch of the last level with the least validation loss"),
    column("early_stop_iteration", INT, "iterations", f"{_RESULT}.early_stop_iteration",
           "iterations from the last prune (dense: from the start) to the least validation loss"),
    column("early_stop_from_init", INT, "iterations", "analysis.tables.clocks", "the same counted from the "
           "initialisation: the iterations before the rewind point are added; null: the weights are not rewound"),
    column("early_stop_censored", BOOL, "true or false", f"{_RESULT}.early_stop_censored",
           "true: the last validation of the level had the least loss, so the true early stop is there or later"),
    column("early_stop_valid_loss", FLOAT, "nats", f"{_RESULT}.early_stop_valid_loss",
           "mean cross-entropy on the validation split at the early stop"),
    column("early_stop_valid_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.early_stop_valid_accuracy",
           "accuracy on the validation split at the early stop"),
    column("early_stop_test_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.early_stop_test_accuracy",
           "accuracy on the test split at the early stop, which was chosen on the validation split alone"),
    column("epochs_to_dense_accuracy", INT, "epochs", "analysis.tables.record_rows",
           "epochs from the initialisation, those before the rewind point included, until the validation accuracy "
           "after the last prune is that of the seed's dense trial at its end; null if the weights are not rewound"),
    column("epochs_to_dense_accuracy_censored", BOOL, "true or false", "analysis.tables.record_rows",
           "true: not reached in these epochs; null: unknown, no such dense trial is done"),
    column("epochs_trained", INT, "epochs", "record.json: epochs_trained",
           "epochs that this trial trained itself, in the attempt that ended it; those of attempts that were "
           "interrupted before are the other rows of the table epochs that it is the trained_by of"),
    column("epochs_total", INT, "epochs", f"{_RESULT}.epochs_total", "epochs of its whole chain, if trained alone"),
    column("train_seconds", FLOAT, "seconds", "record.json: train_seconds",
           "wall time of what this trial trained itself, in the attempt that ended it"),
    column("seconds_total", FLOAT, "seconds", "computed from record.json: epochs.seconds",
           "wall time of the epochs of its whole chain, whoever trained them"),
    column("flops_dense", FLOAT, "multiply-adds", f"{_RESULT}.flops_dense",
           "theoretical: training of the whole chain if nothing was pruned; conv and linear layers, 3 forward passes"),
    column("flops_sparse", FLOAT, "multiply-adds", f"{_RESULT}.flops_sparse",
           "the same if zero weights cost nothing"),
    column("inference_flops_dense", FLOAT, "multiply-adds", f"{_RESULT}.inference_flops_dense",
           "theoretical: one image through the dense network"),
    column("inference_flops_sparse", FLOAT, "multiply-adds", f"{_RESULT}.inference_flops_sparse",
           "theoretical: one image through the network at the end"),
    column("n_train", INT, "pictures", "record.json: data.n_train", "size of the training split"),
    column("n_valid", INT, "pictures", "record.json: data.n_valid", "size of the validation split"),
    column("n_test", INT, "pictures", "record.json: data.n_test", "size of the test split"),
    column("majority_class_accuracy", FLOAT, "fraction (0..1)", "record.json: data.majority_class_accuracy",
           "test accuracy of always predicting the most frequent class"),
    column("chance_accuracy", FLOAT, "fraction (0..1)", f"{_RESULT}.chance_accuracy", "1 / number of classes"),
    column("valid_right", BYTES, "bits, one an image", "record.json: right.valid",
           "validation images that the network has right after the last epoch, in the order of the split, the first in "
           "the highest bit; `python -m analysis predictions RUN` makes a table of them"),
    column("test_right", BYTES, "bits, one an image", "record.json: right.test", "the same on the test split"),
    column("early_stop_test_right", BYTES, "bits, one an image", "record.json: right.early_stop_test",
           "the same on the test split at the early stop"),
    column("data_digest", TEXT, "SHA-256 (hex)", "record.json: data.digest", "digest of the data before it is split"),
    column("state_initial", TEXT, "SHA-256 (hex)", "record.json: states.initial", "state key of the initial weights"),
    column("state_rewind", TEXT, "SHA-256 (hex)", "record.json: states.rewind", "state key of the rewind weights"),
    column("state_final", TEXT, "SHA-256 (hex)", "record.json: states.final", "state key of the final weights"),
    column("sha256_weights", TEXT, "SHA-256 (hex)", "record.json: sha256.weights", "digest of the final weights"),
    column("sha256_masks", TEXT, "SHA-256 (hex)", "record.json: sha256.masks", "digest of the masks"),
    column("sha256_metrics", TEXT, "SHA-256 (hex)", "record.json: sha256.metrics", "digest of the metrics"),
    column("python_version", TEXT, "version", "record.json: versions.python", "Python that trained it"),
    column("torch_version", TEXT, "version", "record.json: versions.torch", "torch that trained it"),
    column("fastai_version", TEXT, "version", "record.json: versions.fastai", "fastai that trained it"),
    column("ray_version", TEXT, "version", "record.json: versions.ray", "Ray that ran it; null if it ran without Ray"),
    column("cuda_version", TEXT, "version", "record.json: versions.cuda", "CUDA of torch; null on a CPU"),
    column("cudnn_version", TEXT, "version", "record.json: versions.cudnn", "cuDNN that trained it; null on a CPU"),
    column("driver_version", TEXT, "version", "record.json: versions.driver", "the GPU's driver; null on a CPU"),
    column("code_version", TEXT, "version", "record.json: fingerprint.code", "version of this project"),
    column("code_sha256", TEXT, "SHA-256 (hex)", "record.json: versions.source", "digest of the source files "
           "of lth_trainable that trained it"),
    column("device", TEXT, "text", "record.json: fingerprint.device", "device that trained it"),
    column("threads", INT, "threads", "record.json: fingerprint.threads", "CPU threads that trained it"),
    column("deterministic", BOOL, "true or false", "record.json: fingerprint.deterministic",
           "whether only kernels with reproducible bytes were used"),
    column("memory_format", TEXT, "name", "record.json: fingerprint.memory_format", "how a GPU lays out convolutions; "
           "null on a CPU, and of trials of older versions, whose convolutions on a GPU were computed in TF32"),
    column("replicas", INT, "networks", "record.json: fingerprint.replicas", "networks that were trained as one "
           "(`--replicas`); 1 if the record says nothing of it"),
    *profile_columns(),
])  # fmt: skip

EPOCHS = table_schema("epochs", "one row for each trial, level and epoch; inherited epochs are rows too", [
    _RUN, _TRIAL,
    column("level", INT, "number", "record.json: epochs.level", "prunes before this epoch; 0: dense"),
    column("epoch", INT, "epoch", "record.json: epochs.epoch", "position in the learning-rate schedule and data order"),
    column("step", INT, "steps", "record.json: epochs.step", "the same in optimiser steps, at the end of the epoch"),
    column("iterations", INT, "iterations", "record.json: epochs.iterations",
           "optimiser steps in this epoch; fewer than a full pass if the level is rewound to an iteration within it"),
    column("lr", FLOAT, "number", "record.json: epochs.lr", "learning rate"),
    column("train_loss", FLOAT, "nats", "record.json: epochs.train_loss", "plain mean over the batches of the epoch"),
    column("valid_loss", FLOAT, "nats", "record.json: epochs.valid_loss", "mean cross-entropy, validation split"),
    column("valid_accuracy", FLOAT, "fraction (0..1)", "record.json: epochs.valid_accuracy",
           "accuracy, validation split"),
    column("sparsity_pct", FLOAT, "per cent (0..100)", "record.json: epochs.sparsity_pct", "measured from the mask"),
    column("seconds", FLOAT, "seconds", "record.json: epochs.seconds", "wall time of the epoch"),
    column("trained_by", TEXT, "name", "record.json: epochs.trained_by", "trial that trained this epoch"),
])  # fmt: skip

LAYERS = table_schema("layers", "one row for each trial, level and prunable layer", [
    _RUN, _TRIAL,
    column("level", INT, "number", "record.json: layers.level", "prunes so far; 0: dense"),
    column("layer", TEXT, "name", "record.json: layers.layer", "parameter of the model"),
    column("type", TEXT, "name", "record.json: layers.type", "type of the layer"),
    column("n_weights", INT, "weights", "record.json: layers.n_weights", "weights of the layer"),
    column("n_kept", INT, "weights", "record.json: layers.n_kept", "weights that the mask keeps"),
    column("sparsity_pct", FLOAT, "per cent (0..100)", "computed", "100 (1 - n_kept / n_weights)"),
])  # fmt: skip

LEVELS = table_schema("levels", "one row for each trial and level: its mask, and its training up to the next prune", [
    _RUN, _TRIAL,
    column("level", INT, "number", "record.json: layers.level", "prunes so far; 0: dense", nullable=False),
    column("n_weights", INT, "weights", "record.json: layers.n_weights", "prunable weights"),
    column("n_kept", INT, "weights", "record.json: layers.n_kept", "prunable weights that the mask keeps"),
    column("sparsity_pct", FLOAT, "per cent (0..100)", "computed", "100 (1 - n_kept / n_weights)"),
    column("n_collapsed_layers", INT, "layers", "computed", "layers without a weight left"),
    column("n_epochs", INT, "epochs", "record.json: epochs", "epochs of this level; 0: it was pruned again at once"),
    column("n_own_epochs", INT, "epochs", "record.json: epochs.trained_by", "those that this trial trained itself"),
    column("seconds", FLOAT, "seconds", "record.json: epochs.seconds", "wall time of the level's epochs, whoever "
           "trained them"),
    column("last_epoch", INT, "epoch", "record.json: epochs.epoch", "its last epoch, in the learning-rate schedule"),
    column("train_loss", FLOAT, "nats", "record.json: epochs.train_loss", "of its last epoch"),
    column("valid_loss", FLOAT, "nats", "record.json: epochs.valid_loss", "after its last epoch"),
    column("valid_accuracy", FLOAT, "fraction (0..1)", "record.json: epochs.valid_accuracy", "after its last epoch"),
    column("best_valid_accuracy", FLOAT, "fraction (0..1)", "computed", "best of its epochs"),
    column("early_stop_epoch", INT, "epoch", "computed", "its first epoch with the least validation loss"),
    column("early_stop_valid_loss", FLOAT, "nats", "computed", "validation loss after that epoch"),
    column("early_stop_valid_accuracy", FLOAT, "fraction (0..1)", "computed", "validation accuracy after that epoch"),
])  # fmt: skip

_TESTS = "analysis.verdicts.claims"
_UNIT = "that of the column unit"
_INTERVAL = "analysis.stats.crossed, analysis.stats.paired"
VERDICT_ROWS = table_schema("verdicts", "one row for each group of tickets, claim and baseline or control", [
    _RUN,
    column("rule_version", INT, "number", "analysis.verdicts.rows", "version of the rules of docs/verdicts_in_detail.md"
           "; 0.4.0, which had no such column, judged by version 1"),
    column("group", TEXT, "name", "computed from trial", "tickets that differ only in their seeds", nullable=False),
    column("ladder", TEXT, "name", "computed from trial", "groups that differ only in their target sparsity"),
    column("role", TEXT, "name", "plan.json: role", "ticket, or baseline: tickets of another method, which are in "
           "separate families", nullable=False),
    column("dataset", TEXT, "name", "spec.dataset", "data set"),
    column("model", TEXT, "name", "spec.model", "network"),
    column("schedule", TEXT, "name", "spec.schedule", "schedule: when the network is pruned"),
    column("rewind_epoch", INT, "epoch", "spec.rewind_epoch", "epoch whose weights the tickets are rewound to"),
    column("epochs", INT, "epochs", "spec.epochs", "epochs of a level, or of the whole fit"),
    column("target_sparsity_pct", FLOAT, "per cent (0..100)", "spec.target_sparsity_pct", "sparsity asked for"),
    column("sparsity_pct", FLOAT, "per cent (0..100)", _RESULT, "measured sparsity, mean of the finished tickets"),
    column("claim", TEXT, "name", _TESTS, f"one of {', '.join(CLAIMS)}", nullable=False),
    column("kind", TEXT, "name", "analysis.verdicts.baselines", "what it is compared with: dense (as many epochs), "
           "dense_stretched (as many as all levels), dense_other, dense_restarts, small_dense, omp, lr_rewinding, "
           "fine_tuning, a control, or several"),
    column("baseline", TEXT, "name", "computed", "the kind; for plain dense networks dense-e and their epochs",
           nullable=False),
    column("baseline_group", TEXT, "name", "computed from trial", "group of the trials of the baseline; null: none, "
           "or several"),
    column("primary", BOOL, "true or false", "computed", "compared with dense networks of as many epochs"),
    column("endpoint", TEXT, "name", "plan.json: endpoint, or the claim's own", "column of trials that is compared"),
    column("n_pairs", INT, "pairs", "computed", "seeds with an outcome on both sides; a diverged trial counts "
           "at chance"),
    column("n_unpaired", INT, "seeds", "computed", "seeds of the group that form no pair"),
    column("unpaired", TEXT, "text", "computed", "why, with their seeds: trials missing, failed, damaged or "
           "excluded, other data, no such value"),
    column("n_unfinished", INT, "seeds", "computed", "those of them with a failed, missing or damaged trial: while "
           "there is one, the verdict is never yes"),
    column("n_diverged", INT, "pairs", "computed", "pairs with a diverged trial, which counts at chance accuracy "
           "(1 / number of classes)"),
    column("n_images", INT, "pictures", "computed", "images of the split that the test takes as a sample too; null: "
           "it is over seeds alone, so it speaks of these images (records of an earlier version; a split for each "
           "seed of a data set of one's own)"),
    column("n_censored", INT, "pairs", "computed", "pairs with a value that is only a lower bound"),
    column("mean_ticket", FLOAT, "that of the endpoint", "computed", "mean of the paired tickets"),
    column("mean_baseline", FLOAT, "that of the endpoint", "computed", "mean of the trials that they are paired with"),
    column("effect", FLOAT, _UNIT, "computed", "mean difference, ticket minus baseline; null if pairs are "
           "censored. For largest_matching_sparsity the target sparsity"),
    column("unit", TEXT, "name", "computed", "percentage points, iterations or per cent"),
    column("ci_low", FLOAT, _UNIT, _INTERVAL, "lower end of its two-sided 95 % interval, over seeds and images "
           "(n_images) or over seeds alone"),
    column("ci_high", FLOAT, _UNIT, _INTERVAL, "upper end of that interval"),
    column("ci_low_over_seeds", FLOAT, _UNIT, "analysis.stats.paired.t_interval", "lower end of the 95 % t-interval "
           "over seeds alone: for other seeds on these images"),
    column("ci_high_over_seeds", FLOAT, _UNIT, "analysis.stats.paired.t_interval", "upper end of that interval"),
    column("effect_finished", FLOAT, _UNIT, "computed", "mean difference without the pairs with a diverged trial; null "
           "if there are none"),
    column("ci_low_finished", FLOAT, _UNIT, _INTERVAL, "lower end of its two-sided 95 % interval, as ci_low"),
    column("ci_high_finished", FLOAT, _UNIT, _INTERVAL, "upper end of that interval"),
    column("sd", FLOAT, _UNIT, "computed", "standard deviation (n - 1) of the differences"),
    column("hedges_g", FLOAT, "number", "analysis.stats.paired.hedges_g", "effect size g_z of the paired differences"),
    column("bound", FLOAT, _UNIT, _TESTS, "what the mean difference is compared with"),
    column("resolution", FLOAT, _UNIT, "computed", "smallest difference that one trial can show: one image of the "
           "endpoint's split, or one validation interval"),
    column("margin_pp", FLOAT, "percentage points", "plan.json: margin_pp", "how much worse still counts as matching"),
    column("margin_images", FLOAT, "images", "computed", "the margin as a number of images of the endpoint's split"),
    column("again_n_pairs", INT, "pairs", "computed", "dense networks that were trained once more in another order "
           "of the data (control dense_again); in rows of primary matches and beats"),
    column("again_effect_pp", FLOAT, "percentage points", "computed", "mean difference of the two: what the order "
           "alone changes"),
    column("again_ci_low_pp", FLOAT, "percentage points", "analysis.stats.paired.t_interval", "lower end of its "
           "two-sided 95 % t-interval"),
    column("again_ci_high_pp", FLOAT, "percentage points", "analysis.stats.paired.t_interval", "upper end of it"),
    column("again_sd_pp", FLOAT, "percentage points", "computed", "standard deviation (n - 1) of these differences"),
    column("alpha", FLOAT, "probability", "plan.json: alpha", "one-sided level of each family"),
    column("test", TEXT, "name", _TESTS, "the deciding test: seeds x images; paired t over seeds if the images are "
           "not known; sign flip if all differences are equal; sign test if pairs are censored"),
    column("correction", TEXT, "text", "analysis.verdicts.families", "how p becomes p_decisive"),
    column("look", INT, "seeds", "plan.json: looks", "seeds of the last look taken; null: no looks are planned"),
    column("p", FLOAT, "probability", _TESTS, "one-sided p of the claim from all pairs, before looks and correction"),
    column("p_decisive", FLOAT, "probability", "analysis.verdicts.families",
           "the same after looks and correction, to be compared with alpha; null: not tested"),
    column("p_against", FLOAT, "probability", _TESTS, "one-sided p of the reverse of the claim"),
    column("p_against_decisive", FLOAT, "probability", "analysis.verdicts.families",
           "the same after looks and correction; null: not tested"),
    column("level", FLOAT, "probability", "analysis.verdicts.families", "one-sided level at which the claim was tested "
           "in the end: what its correction left of alpha; null: not tested"),
    column("level_against", FLOAT, "probability", "analysis.verdicts.families", "the same for the reverse"),
    column("decisive_low", FLOAT, _UNIT, "analysis.verdicts.weighing", "lower confidence bound of the mean difference "
           "at its level, after looks and correction: above `bound` just where that is shown"),
    column("decisive_high", FLOAT, _UNIT, "analysis.verdicts.weighing", "upper confidence bound in the same way: below "
           "`bound` just where that is shown"),
    column("p_over_seeds", FLOAT, "probability", "analysis.stats.paired.superiority",
           "one-sided p of the claim over seeds alone: for other seeds on these images"),
    column("p_sign_flip", FLOAT, "probability", "analysis.stats.paired.sign_flip_p",
           "p of the claim by the sign-flip test"),
    column("verdict", TEXT, "name", _TESTS, f"one of {', '.join(VERDICTS)}: shown, its reverse shown, or neither",
           nullable=False),
    column("headline", TEXT, "name", "analysis.verdicts.headlines", "what matches and beats say of dense together, in "
           f"the rows of both: {'; '.join(HEADLINES)}"),
    column("shown_lower", BOOL, "true or false", "analysis.verdicts.headlines", "whether the tickets are shown to be "
           "below dense, by however little; in the same rows"),
    column("seeds_needed", INT, "seeds", "analysis.stats.power",
           "total number of seeds that would decide it at 80 % power, if the mean and sd of these pairs were the true "
           "ones; null: decided, not known, or more than 1,000"),
    column("seeds_needed_low", INT, "seeds", "analysis.stats.power.seeds_range", "the least number that the "
           "uncertainty of mean and sd leaves: lower end of an 80 % interval; null as above"),
    column("seeds_needed_high", INT, "seeds", "analysis.stats.power.seeds_range", "its upper end; null as above"),
    column("would_decide", TEXT, "text", "analysis.verdicts.reasons", "what would decide it: a range of seeds, or "
           "longer training, or more test images; null: decided, not tested, or not known"),
    column("why", TEXT, "text", _TESTS, "the reason for the verdict in words", nullable=False),
])  # fmt: skip

TABLES: dict[str, pa.Schema] = {
    "trials": TRIALS, "epochs": EPOCHS, "levels": LEVELS, "layers": LAYERS, "overlaps": OVERLAPS, "signs": SIGNS,
    "barriers": BARRIERS, "connections": CONNECTIONS, "supermasks": SUPERMASKS, "verdicts": VERDICT_ROWS,
    "variances": VARIANCES, "published": PUBLISHED,
}  # fmt: skip
