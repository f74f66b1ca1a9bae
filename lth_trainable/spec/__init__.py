"""The description of a trial: its fields, name, segments and their keys. Imports no torch."""

from lth_trainable.registry import lazy

__all__, __getattr__ = lazy(
    __name__,
    {
        "trial_spec": ("TrialSpec", "spec_from_dict"),
        "values": ("digest", "fraction"),
    },
)
