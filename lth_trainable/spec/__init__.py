"""What a trial is: its fields, its name, its segments and their keys. Imports no torch."""

from lth_trainable.registry import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "trial_spec": ("TrialSpec", "spec_from_dict"),
        "values": ("digest", "fraction", "RUNG_TOLERANCE"),
    },
)
