"""The text of every JSON file is that of Python's own indented encoder."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from lth_trainable.store.indented import dumps
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
