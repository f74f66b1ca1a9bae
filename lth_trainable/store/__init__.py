"""Where the bytes of trials live: sealed folders, shared states, records."""

from lth_trainable.registry import lazy

_HOME = {
    "store": (
        "MANIFEST", "RECORD", "MASKS", "WEIGHTS", "TRAINING", "HISTORY", "STATES", "FAILURE", "PLAN", "PART",
        "LISTINGS", "RETRIES", "FORMAT", "Damaged", "Sealed", "Store", "damage_by_size",
        "fingerprint_id", "to_json", "map_in_threads",
    ),
    "level_masks": ("pack_levels", "unpack_levels", "last_level"),
    "failures": ("Note", "failure_of", "reason_of"),
    "trials": (
        "Failure", "open_run", "open_trial", "read_record", "read_failure", "finished_trials", "load_masks",
        "load_trial",
    ),
}  # fmt: skip
__all__, __getattr__ = lazy(__name__, _HOME)
