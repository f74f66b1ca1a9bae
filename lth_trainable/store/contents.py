"""Readers of records and histories: what leaves them has the entries, types and ranges that the rest relies on."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import check_types
from lth_trainable.store import image_bits
from lth_trainable.store.indented import Fixed
from lth_trainable.store.json_files import to_json
from lth_trainable.store.layout import Each, Entries, ListOf, Odd, Rows, Value, readable
from lth_trainable.store.store import FORMAT, HISTORY, RECORD, Damaged, Sealed, Store, object_of

MOST_HISTORIES = 128  # that a process keeps: those of a cohort of 64, and of the levels before
TEXT = Value(types=(str,), words="a text")
TEXT_OR_NULL = Value(types=(str,), words="a text or null", null=True)
FLAG_OR_NULL = Value(types=(bool,), words="true, false or null", null=True)
COUNT = Value(types=(int,), words="a whole number of at least 0", least=0)
COUNT_OR_NULL = Value(types=(int,), words="a whole number of at least 0, or null", least=0, null=True)
POSITIVE = Value(types=(int,), words="a whole number of at least 1", least=1)
NUMBER = Value(types=(int, float), words="a number")
NUMBER_OR_NULL = Value(types=(int, float), words="a number or null", null=True)
SECONDS = Value(types=(int, float), words="seconds", least=0)
SECONDS_OR_NULL = Value(types=(int, float), words="seconds or null", least=0, null=True)
SHARE = Value(types=(int, float), words="a number from 0 to 1", least=0, most=1)
SHARE_OR_NULL = Value(types=(int, float), words="a number from 0 to 1, or null", least=0, most=1, null=True)
PERCENT = Value(types=(int, float), words="a number from 0 to 100", least=0, most=100)
PERCENT_OR_NULL = Value(types=(int, float), words="a number from 0 to 100, or null", least=0, most=100, null=True)
SHAPE = ListOf(of=COUNT)

EPOCHS = Rows(
    needed={
        "epoch": COUNT, "level": COUNT, "seconds": SECONDS, "trained_by": TEXT, "train_loss": NUMBER_OR_NULL,
        "valid_loss": NUMBER_OR_NULL, "valid_accuracy": SHARE_OR_NULL,
    },
    others={"iterations": COUNT, "step": COUNT, "lr": NUMBER_OR_NULL, "sparsity_pct": PERCENT_OR_NULL},
)  # fmt: skip
DATA = Entries(
    needed={"digest": TEXT, "shape": SHAPE, "n_classes": POSITIVE, "n_train": POSITIVE},
    others={"n_valid": COUNT, "n_test": COUNT, "majority_class_accuracy": SHARE_OR_NULL},
)
RESULT = Entries(
    needed={
        "sparsity_pct": PERCENT, "n_weights": COUNT, "n_kept": COUNT, "valid_accuracy": SHARE_OR_NULL,
        "test_accuracy": SHARE_OR_NULL,
    },
    others={
        "collapsed_layers": ListOf(of=TEXT), "best_valid_accuracy": SHARE_OR_NULL, "balanced_accuracy": SHARE_OR_NULL,
        "chance_accuracy": SHARE_OR_NULL, "valid_loss": NUMBER_OR_NULL, "test_loss": NUMBER_OR_NULL,
        "early_stop_epoch": COUNT_OR_NULL, "early_stop_iteration": COUNT_OR_NULL, "early_stop_censored": FLAG_OR_NULL,
        "early_stop_valid_loss": NUMBER_OR_NULL, "early_stop_valid_accuracy": SHARE_OR_NULL,
        "early_stop_test_accuracy": SHARE_OR_NULL, "epochs_total": COUNT_OR_NULL, "flops_dense": NUMBER_OR_NULL,
        "flops_sparse": NUMBER_OR_NULL, "inference_flops_dense": NUMBER_OR_NULL,
        "inference_flops_sparse": NUMBER_OR_NULL,
    },
)  # fmt: skip
ALL_WEIGHTS = Entries(needed={"n": COUNT, "not_pruned": Each(of=COUNT)}, null=True)  # null: of an older version
PROFILE = Entries(
    needed={"wall_seconds": SECONDS, "seconds": Each(of=SECONDS)},
    others={
        "idle_seconds": SECONDS_OR_NULL, "kernel_share": SHARE_OR_NULL, "multiply_adds": NUMBER,
        "peak_multiply_adds": NUMBER, "floor_seconds": SECONDS,
    },
    null=True,
)  # fmt: skip
RECORD_LAYOUT = Entries(
    needed={
        "format": COUNT, "trial": TEXT, "key": TEXT, "spec": Entries(), "status": TEXT, "reason": TEXT_OR_NULL,
        "epochs": EPOCHS, "data": DATA, "result": RESULT, "shapes": Each(of=SHAPE), "states": Each(of=TEXT),
        "fingerprint": Entries(
            needed={"device": TEXT, "threads": COUNT_OR_NULL},
            others={
                "deterministic": FLAG_OR_NULL, "code": TEXT, "memory_format": TEXT, "momentum": TEXT,
                "compiled": FLAG_OR_NULL, "replicas": POSITIVE,
            },
        ),
        "layers": Rows(
            needed={"level": COUNT, "layer": TEXT, "n_weights": POSITIVE, "n_kept": COUNT}, others={"type": TEXT}
        ),
        "versions": Each(of=TEXT_OR_NULL), "sha256": Each(of=TEXT),
    },
    others={
        "train_seconds": SECONDS, "epochs_trained": COUNT, "right": Each(of=TEXT_OR_NULL), "all_weights": ALL_WEIGHTS,
        "dead_filters": Each(of=COUNT), "profile": PROFILE,
    },
)  # fmt: skip
HISTORY_LAYOUT = Entries(
    needed={
        "rows": EPOCHS, "data": DATA, "diverged": TEXT_OR_NULL, "asked": Each(of=TEXT),
        "selections": Each(of=ListOf(of=TEXT)), "counts": ListOf(of=Each(of=COUNT)), "versions": Each(of=TEXT_OR_NULL),
        "weights": Each(
            of=Entries(needed={"layer": TEXT, "n": COUNT, "shape": SHAPE, "type": TEXT, "uses": COUNT})
        ),
        "early_stop": Entries(
            needed={"level": COUNT, "iteration": COUNT, "epoch": COUNT, "valid_loss": NUMBER, "valid_accuracy": SHARE},
            others={"test_accuracy": SHARE_OR_NULL, "test_right": TEXT},
            null=True,
        ),
        "evaluation": Entries(
            needed={
                "valid": ListOf(of=NUMBER_OR_NULL, size=2), "test": ListOf(of=NUMBER_OR_NULL, size=2),
                "balanced_accuracy": SHARE_OR_NULL,
            },
            others={"right": Entries(needed={"valid": TEXT, "test": TEXT})},
            null=True,
        ),
    },
    others={"all_weights": ALL_WEIGHTS, "dead_filters": Each(of=COUNT)},
)  # fmt: skip


class Histories:
    """Histories of states that this process has written or gone on from lately, by the SHA-256 of their bytes.

    The history of a level's end is read three times: to see that the trial can be recorded, to record it, and by
    whoever goes on with it. Its bytes are read from the storage and checked each time, but need not be taken apart
    again. Its epochs are the same objects in all histories that have them, so their texts are known too.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, sha256: str) -> dict[str, Any] | None:
        """The history of these bytes; None if it is not known. What is in it must not be changed."""
        with self._lock:
            found = self._known.get(sha256)
            if found is not None:
                self._known.move_to_end(sha256)
        return None if found is None else dict(found)

    def put(self, sha256: str, history: Mapping[str, Any]) -> None:
        """Keep a history, whose epochs are `Fixed`."""
        with self._lock:
            self._known[sha256] = history
            while len(self._known) > MOST_HISTORIES:
                self._known.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


HISTORIES = Histories()


def read_history(store: Store, folder: Sealed) -> dict[str, Any]:
    """The history of a state, with its layout checked. Its epochs cannot be changed. Raises `Damaged`."""
    content = store.content(folder, HISTORY)
    return HISTORIES.get(_sha256(folder)) or _fixed(_history(folder, object_of(folder, HISTORY, content)))


def keep_history(folder: Sealed, history: Mapping[str, Any]) -> None:
    """Keep what was read as the history of a state."""
    HISTORIES.put(_sha256(folder), history)


def keep_written_history(folder: Sealed, history: Mapping[str, Any]) -> None:
    """Keep what was written as the history of a state: what a reader would find, with the epochs that are there."""
    rows = list(history["rows"])
    if rows and all(type(row) is Fixed for row in rows):
        rest = object_of(folder, HISTORY, to_json({**history, "rows": []}))
        with contextlib.suppress(Damaged):  # so it is for its readers, who say what is wrong
            HISTORIES.put(_sha256(folder), _history(folder, {**rest, "rows": rows}))


def _sha256(folder: Sealed) -> str:
    return str(folder.manifest["files"][HISTORY]["sha256"])


def _fixed(history: dict[str, Any]) -> dict[str, Any]:
    return {**history, "rows": [Fixed(row) for row in history["rows"]]}


def _history(folder: Sealed, history: dict[str, Any]) -> dict[str, Any]:
    try:
        with readable(HISTORY):
            HISTORY_LAYOUT.check("", history)
            _check_references(history)
    except Odd as error:
        raise Damaged(folder.path, _about(HISTORY, error)) from error
    return history


def _check_references(history: Mapping[str, Any]) -> None:
    """Raise `Odd` if a part of a history refers to a layer or level that another part does not have."""
    names = [name for selection in history["selections"].values() for name in selection]
    names += [name for counts in history["counts"] for name in counts]
    foreign = [name for name in names if name not in history["weights"]]
    if foreign:
        raise Odd(f"weights has no {foreign[0][:80]!r}")
    last = max((row["level"] for row in history["rows"]), default=0)
    if last > len(history["counts"]):
        raise Odd(f"rows are of level {last}, of {len(history['counts'])}")
    for text in history["asked"].values():
        if not 0 <= Fraction(text) <= 1:
            raise Odd(f"asked is {text[:60]!r}, not a fraction from 0 to 1")


def _check_right(record: Mapping[str, Any]) -> None:
    """Raise `Odd` if a record's bits by image are not those of as many images as its splits have."""
    for name, text in record.get("right", {}).items():
        n = record["data"].get(f"n_{name.rpartition('_')[2]}")
        if text is not None and n is not None:
            try:
                image_bits.unpack(image_bits.to_bytes(text), n)
            except ValueError as error:
                raise Odd(f"right.{name[:80]}: {error}") from error


def read_record(store: Store, folder: Sealed) -> dict[str, Any]:
    """The record of a finished trial, with its layout checked.

    Raises `Damaged`, or `UserError` for one that a later version has written.
    """
    return _record(folder, store.json_of(folder, RECORD))


def _record(folder: Sealed, record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise UserError(f"{folder.path}: {RECORD} is written in format {found!r}; this version reads {FORMAT}")
    if found != FORMAT:
        raise Damaged(folder.path, f"{RECORD} has format {found!r}; this version reads {FORMAT}")
    try:
        RECORD_LAYOUT.check("", record)
        check_types(record["spec"])
        _check_right(record)
    except (Odd, UserError) as error:
        raise Damaged(folder.path, _about(RECORD, error)) from error
    return record


def check_content(store: Store, folder: Sealed) -> None:
    """Raise `Damaged` if a record or history in a sealed folder does not have its layout."""
    for name in folder.manifest["files"]:
        if name in _LAID_OUT:
            check_layout(folder, name, store.content(folder, name))


def check_layout(folder: Sealed, name: str, content: bytes) -> None:
    """Raise `Damaged` if this is the content of a record or history and does not have its layout."""
    if name in _LAID_OUT:
        _LAID_OUT[name](folder, object_of(folder, name, content))


_LAID_OUT = {RECORD: _record, HISTORY: _history}


def _about(name: str, error: Exception) -> str:
    return f"{name} is not as this version writes it ({one_line(error)[:300]})"
