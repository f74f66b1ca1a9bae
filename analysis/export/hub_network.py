"""`model.py` of a folder for the Hub: how others make the network, with torch alone wherever that is possible."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from analysis.export.hub_facts import CardFacts, Definition
from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec

if TYPE_CHECKING:
    from torch import nn

    from lth_trainable.pruning.ticket import Ticket

NETWORK = "model.py"


def define(ticket: Ticket, spec: TrialSpec) -> tuple[Definition, str]:
    """How the repository defines the network, and a note if others need more than torch for it, or cannot build it."""
    from analysis.export.plain_torch import plain_source
    from lth_trainable.models.libraries import library_call

    shape = tuple(ticket.provenance["data"]["shape"])
    n_classes = ticket.provenance["data"]["n_classes"]
    try:
        network = _network(ticket, spec)
    except (UserError, RuntimeError) as error:
        why = one_line(error).partition(";")[0]
        return Definition(), f"{NETWORK} is left out, because {spec.model} cannot be built here ({why})"
    source = plain_source(network, shape)
    if source is not None:
        return Definition(made="Network()", source=source), ""
    call = library_call(spec.model, shape, n_classes)
    if call is not None:
        library = spec.model.partition(":")[0]
        return Definition(
            made=call, library=library
        ), f"{NETWORK} needs {library}: torch alone cannot build {spec.model}"
    return Definition(), f"{NETWORK} is left out: {spec.model} cannot be written down with layers of torch alone"


def _network(ticket: Ticket, spec: TrialSpec) -> nn.Module:
    import torch

    from lth_trainable.models.networks import build

    data = ticket.provenance["data"]
    with torch.random.fork_rng(devices=[]):
        network = build(spec.model, tuple(data["shape"]), data["n_classes"], spec.width_pct)
    network.load_state_dict(dict(ticket.final))
    return network


def model_py(facts: CardFacts) -> str:
    """The text of `model.py`."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["safe_words"] = lambda text: re.sub(r"[^\w .:+-]", "?", text)  # it is within a string of Python
    text = files("analysis.export").joinpath("hub_model.py.jinja").read_text(encoding="utf-8")
    how = facts.definition
    return environment.from_string(text).render(
        trial=facts.name, needs=how.needs, library=how.library, made=how.made, source=how.source,
        words=set(re.findall(r"\b(?:inf|nan|device)\b", how.source)), shape=facts.about["data"]["shape"],
        start=facts.start, pruned=facts.pruned,
    )  # fmt: skip
