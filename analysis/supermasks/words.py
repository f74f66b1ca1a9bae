"""Supermasks in words: the best masks of each network, beside random masks and the majority class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from analysis.supermasks.summary import RANDOM, Arm
from analysis.text import plural
from lth_trainable.spec.words import field_words

FOUND = {"one_shot": "one shot", "rounds": "rounds"}
WEIGHTS = {"initial": "initial weights", "signed_constants": "signed constants"}


def sentences(found: Sequence[Arm]) -> list[str]:
    """For each network and treatment of its weights: the best criterion, beside random masks and the majority class."""
    by_network: dict[tuple[str, str, str], list[Arm]] = defaultdict(list)
    for arm in found:
        by_network[arm.dataset, arm.model, arm.weights].append(arm)
    return [_sentence(group) for group in by_network.values()]


def _sentence(group: Sequence[Arm]) -> str:
    best = max(group, key=lambda arm: arm.accuracy_pct)
    random = next((arm for arm in group if arm.criterion == RANDOM and arm.found == "one_shot"), None)
    beside = "" if random is None else f"; the best random masks {accuracy(random)} %"
    always = "" if best.majority_pct is None else f"; always the commonest class {best.majority_pct:.1f} %"
    return (
        f"{network(best)}, {WEIGHTS[best.weights]}: the best masks are by {best.criterion} ({FOUND[best.found]}, "
        f"{best.weights_left_pct:.1f} % of the weights left): {accuracy(best)} % of the test images right, "
        f"{plural(best.n, 'seed')}{beside}{always}."
    )


def network(arm: Arm) -> str:
    """Data set and network in words."""
    return f"{arm.dataset}, {field_words('model', arm.model)}"


def accuracy(arm: Arm) -> str:
    """Mean accuracy with its interval over seeds, in percent."""
    interval = arm.interval
    shown = f"{arm.accuracy_pct:.1f}"
    return shown if interval is None else f"{shown} [{interval.low:.1f}, {interval.high:.1f}]"
