"""The text of every JSON file is that of Python's own indented encoder."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
from typing import Any

import pytest

from lth_trainable.store.indented import Fixed, dumps
from lth_trainable.store.json_files import to_json

PLAIN: tuple[Any, ...] = (
    None, True, False, 0, -7, 10**30, 0.1, 1e-300, -0.0, 5e300, "", "a", 'quotes " and \\', "line\nbreak", "é漢\u2028",
    ", : { [", "\x00\x1b[31m", {}, [], (),
)  # fmt: skip


def some(draws: random.Random, depth: int) -> Any:
    kind = draws.random()
    if depth == 0 or kind < 0.3:
        return draws.choice(PLAIN)
    size = draws.randrange(5)
    if kind < 0.65:
        keys = [draws.choice(("a", "b", "", "é", "\n", "key", "10", "9")) for _ in range(size)]
        return {key: some(draws, depth - 1) for key in keys}
    if kind < 0.7:
        return {draws.randrange(20): some(draws, depth - 1) for _ in range(size)}  # keys that are not text
    return [some(draws, depth - 1) for _ in range(size)]


def test_it_writes_what_pythons_encoder_writes() -> None:
    draws = random.Random(0)
    for _ in range(2000):
        content = some(draws, draws.randrange(6))
        expected = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
        assert dumps(content) == expected
        assert to_json(content) == f"{expected}\n".encode()


@pytest.mark.parametrize("content", [math.nan, [math.inf], {"a": [1, math.nan]}, {"a": {"b": -math.inf}}])
def test_it_writes_no_nan(content: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(content)


def test_what_is_not_json_is_refused() -> None:
    for content in ({"a": {1, 2}}, [object()], {"a": [b"bytes"]}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            dumps(content)


def test_an_object_that_does_not_change_is_written_like_any_other_wherever_it_is() -> None:
    plain = {"b": 1, "a": -0.0, "é": None, "text": "line\nbreak"}
    fixed = Fixed(plain)
    for content, same in (
        (fixed, plain), ([fixed, fixed], [plain, plain]), ({1: fixed}, {1: plain}), (Fixed(), {}),
        ({"x": {"y": [fixed]}, "z": fixed}, {"x": {"y": [plain]}, "z": plain}),
    ):  # fmt: skip
        assert dumps(content) == dumps(content) == dumps(same)


def test_an_object_that_does_not_change_cannot_be_changed_and_its_copies_can() -> None:
    fixed = Fixed(a=1)
    for change in (
        lambda: fixed.update(a=2), lambda: fixed.__setitem__("a", 2), lambda: fixed.__delitem__("a"), fixed.popitem,
        lambda: fixed.pop("a"), fixed.clear, lambda: fixed.setdefault("b", 2), lambda: fixed.__ior__({"a": 2}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="change a copy"):
            change()
    for made in (dict(fixed), copy.copy(fixed), copy.deepcopy(fixed), pickle.loads(pickle.dumps(fixed))):
        assert type(made) is dict and made == fixed == {"a": 1}
