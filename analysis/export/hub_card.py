"""The model card of a folder for the Hub: `README.md`, with metadata that the Hub reads and a text for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from analysis.export.hub_facts import CardFacts
from analysis.labels import dense_label, in_words, name_parts
from analysis.report.terminal import seeds
from analysis.tables.schema import Row
from analysis.text import percent, signed
from lth_trainable.data.datasets import DATASETS, IN_FILES
from lth_trainable.safe_text import one_line
from lth_trainable.spec.ticket_id import parse_ticket

HUB_DATASETS = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "pets": "timm/oxford-iiit-pet"}
TASK = "image-classification"
_TAGS = {
    "ticket": ("lottery-ticket", "pruning", "sparsity"), "baseline": ("lottery-ticket", "pruning", "sparsity"),
    "control": ("lottery-ticket-control", "pruning", "sparsity"), "dense": ("lottery-ticket-dense-baseline",),
}  # fmt: skip
_MARKS = re.compile(r"([\\`*_\[\]<>|#~])")


def model_card(facts: CardFacts) -> str:
    """The text of `README.md`."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{_text(facts)}"))


def _metadata(facts: CardFacts) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = facts.spec.dataset
    measured = EvalResult(
        task_type=TASK, dataset_type=HUB_DATASETS.get(dataset, dataset), dataset_name=dataset, dataset_split="test",
        metric_type="accuracy", metric_name="test accuracy", metric_value=facts.about["result"]["test_accuracy"],
    )  # fmt: skip
    return ModelCardData(
        license=facts.license, library_name=facts.definition.library or "pytorch", pipeline_tag=TASK,
        tags=list(_TAGS[facts.role]), datasets=[HUB_DATASETS[dataset]] if dataset in HUB_DATASETS else None,
        metrics=["accuracy"], model_name=facts.name, eval_results=[measured],
    )  # fmt: skip


def _text(facts: CardFacts) -> str:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "md": plain_markdown, "code": lambda text: f"`{one_line(text).replace('`', '?')}`",
        "pct": lambda share: f"{100 * share:.2f} %",
        "count": lambda number: f"{number:,.0f}",
    }  # fmt: skip
    text = files("analysis.export").joinpath("hub_card.md.jinja").read_text(encoding="utf-8")
    about, standing = facts.about, facts.standing
    dataset, *settings = facts.spec.data_key
    return environment.from_string(text).render(
        facts=facts, about=about, result=about["result"], data=about["data"], standing=standing,
        title=in_words(name_parts(facts.name)), kept=percent(100 - about["result"]["sparsity_pct"]),
        comparisons=[_comparison(row) for row in standing.rows] if standing is not None else [],
        commands=[one_line(shlex.join(command)) for command in standing.commands] if standing is not None else [],
        fields={name: value for name, value in about["spec"].items() if value is not None},
        exact=about["fingerprint"]["device"].startswith("cpu") and about["spec"]["precision"] == "fp32",
        named=dataset in DATASETS, in_files=dataset in IN_FILES,
        arguments=", ".join(map(repr, settings)), size=_size(about["data"]["shape"]),
        imported=facts.spec.ticket is not None and parse_ticket(facts.spec.ticket),
        plugged={name: value for name, value in about["spec"].items() if _is_plug_in(name, value)},
    )  # fmt: skip


def _is_plug_in(name: str, value: Any) -> bool:
    return isinstance(value, str) and ":" in value and not value.startswith(("torchvision:", "timm:"))


def _comparison(row: Row) -> Mapping[str, str]:
    interval = "–" if row["ci_low"] is None else f"{signed(row['ci_low'])} to {signed(row['ci_high'])}"
    known = "no interval" if row["ci_low"] is None else f"95 % interval {interval}"
    difference = "not measured" if row["effect"] is None else f"differs by {signed(row['effect'])} percentage points"
    return {
        "against": dense_label(row["baseline"]), "seeds": seeds((row,)), "endpoint": row["endpoint"].replace("_", " "),
        "difference": "–" if row["effect"] is None else signed(row["effect"]), "interval": interval,
        "measured": f"{difference}, {known}", "margin": f"{row['margin_pp']:g}",
        "verdict": row["verdict"], "why": row["why"],
    }  # fmt: skip


def _size(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def plain_markdown(text: object) -> str:
    """Text of others in one line, in which nothing acts as Markdown or HTML."""
    return _MARKS.sub(r"\\\1", one_line(text))
