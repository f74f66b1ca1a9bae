"""How each field of a `TrialSpec` is written in names of trials, and in words for people. Needs no torch.

This is the only such table. Names are made from it in `naming.py`; reports, figures and plans take their words from it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lth_trainable.spec.ticket_id import parse_ticket


@dataclass(frozen=True, kw_only=True)
class FieldWords:
    """How one field is written.

    in_name: its part of a trial's name; {} is the value. for_people: the same in words, such as "learning rate {}".
    values: words for particular values, "" for values that need no mention.
    """

    in_name: str
    for_people: str = "{}"
    values: Mapping[Any, str] = field(default_factory=dict)


# The order is that of the parts of a name
FIELD_WORDS: dict[str, FieldWords] = {
    "dataset": FieldWords(in_name="{}"),
    "model": FieldWords(
        in_name="{}",
        values={
            "lenet_300_100": "LeNet-300-100", "resnet18": "ResNet-18", "resnet20": "ResNet-20", "conv_2": "Conv-2",
            "conv_4": "Conv-4", "conv_6": "Conv-6",
        },
    ),
    "schedule": FieldWords(
        in_name="{}", values={"imp": "IMP", "omp": "OMP", "one_shot": "one shot", "agp": "AGP", "dsd": "DSD"}
    ),
    "target_sparsity_pct": FieldWords(in_name="s{}", for_people="{} %"),
    "rewind_epoch": FieldWords(in_name="r{}", for_people="rewind epoch {}"),
    "rewind_step": FieldWords(in_name="r{}it", for_people="rewind iteration {}"),
    "control": FieldWords(
        in_name="{}",
        values={
            "none": "", "dense_restarts": "dense with restarts", "layerwise_shuffle": "shuffled mask",
            "random_sparse": "random sparse network", "sign_shuffle": "shuffled signs", "reinit": "reinitialisation",
            "sign_flip": "flipped signs", "new_magnitudes": "new magnitudes, its signs",
            "constant_magnitude": "constant magnitude, its signs",
        },
    ),
    "prune_rate_pct": FieldWords(in_name="p{}", for_people="{} % per level"),
    "prune_steps": FieldWords(in_name="steps{}", for_people="{} steps"),
    "start_pct": FieldWords(in_name="start{}", for_people="start {}"),
    "end_pct": FieldWords(in_name="end{}", for_people="end {}"),
    # no words for rewinding: the words of the rewind point say it
    "retrain": FieldWords(
        in_name="retrain_{}",
        values={
            "weight_rewinding": "", "tutorial": "", "lr_rewinding": "LR rewinding", "fine_tuning": "fine-tuning",
            "none": "no rewinding",
        },
    ),
    "reset_end": FieldWords(in_name="supermask_{}", values={True: "supermask", False: ""}),
    "granularity": FieldWords(in_name="{}"),
    "context": FieldWords(in_name="{}", values={"output_row": "within output rows"}),
    "criterion": FieldWords(in_name="{}"),
    "layers": FieldWords(in_name="layers_{}", for_people="{} layers"),
    "epochs": FieldWords(in_name="e{}", for_people="{} epochs"),
    "batch_size": FieldWords(in_name="bs{}", for_people="batch {}"),
    "optimizer": FieldWords(in_name="{}", values={"sgd": "SGD", "adam": "Adam"}),
    "lr": FieldWords(in_name="lr{}", for_people="learning rate {}"),
    "momentum": FieldWords(in_name="mom{}", for_people="momentum {}"),
    "beta2": FieldWords(in_name="beta2_{}", for_people="beta2 {}"),
    "eps": FieldWords(in_name="eps{}", for_people="epsilon {}"),
    "weight_decay": FieldWords(in_name="wd{}", for_people="weight decay {}"),
    "precision": FieldWords(in_name="{}"),
    "order_seed": FieldWords(in_name="order{}", for_people="data order {}"),
    "split_seed": FieldWords(in_name="split{}", for_people="split {}"),
    "augment": FieldWords(in_name="{}", values={"none": "", "flip_shift": "flip and shift"}),
    "lr_policy": FieldWords(in_name="lr_{}", for_people="{} learning rate"),
    "warmup_pct": FieldWords(in_name="warm{}", for_people="warm-up {}"),
    "lr_drops": FieldWords(in_name="drops{}", for_people="drops at {}"),
    "lr_drop_factor": FieldWords(in_name="drop{}", for_people="drop factor {}"),
    "rewind_optimizer": FieldWords(in_name="opt_{}", for_people="{} optimiser"),
    "output_prune_rate_pct": FieldWords(in_name="pout{}", for_people="output layer {} % per level"),
    "validate_every": FieldWords(in_name="val{}", for_people="validated every {} iterations"),
    "width_pct": FieldWords(in_name="w{}", for_people="{} % wide"),
    "image_size": FieldWords(in_name="px{}", for_people="{} pixels"),
    "fine_tuning_lr_fraction": FieldWords(in_name="ft{}", for_people="at {} of the learning rate"),
    "control_lr": FieldWords(in_name="clr{}", for_people="control at learning rate {}"),
    "sign_flip_pct": FieldWords(in_name="flip{}", for_people="{} % of the signs"),
    "retrain_order": FieldWords(
        in_name="order_{}", values={"same": "data order repeated", "new": "new data order at each level"}
    ),
    "ticket": FieldWords(in_name="t{}", for_people="imported ticket {}"),
    "seed": FieldWords(in_name="seed{}", for_people="seed {}"),
}  # fmt: skip


def field_words(name: str, value: Any) -> str:
    """The value of a field in words, such as "rewind epoch 1", "64 %", "learning rate 0.003", "OMP" or "LR rewinding".

    "" for None (the field has no effect) and for values that need no mention. Plug-ins are written as they are.
    """
    if value is None:
        return ""
    words = FIELD_WORDS[name]
    if value in words.values:
        return words.values[value]
    text = _text(name, value)
    return words.for_people.format(text if ":" in text else text.replace("_", " "))


@functools.lru_cache(maxsize=1 << 12, typed=True)
def name_part(name: str, value: Any) -> str:
    """The value of a field as a part of a trial's name, such as "r1", "s64" or "lr0.003"; safe in folder names."""
    text = _text(name, value)
    return FIELD_WORDS[name].in_name.format("".join(c if c.isalnum() or c in "._+" else "." for c in text))


def _text(name: str, value: Any) -> str:
    if name == "ticket":
        return parse_ticket(value).short
    return f"{value:g}" if isinstance(value, float) else str(value)
