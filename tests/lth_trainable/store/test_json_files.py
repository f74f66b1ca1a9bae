"""The strict reader of JSON, and files that hold their own checksum."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lth_trainable.store.json_files import DEPTH, NotJson, from_json, object_from_json, seal_json, to_json, unseal_json

CONTENT = {"format": 2, "margin_pp": 0.5, "name": "é\n", "sha": "no", "zeros": "0" * 64, "within": {"sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a" : 1, "a": 2}', "twice"),
        (b'{"a" : 1, "a": ":"}', "twice"),
        (b'[{"a": "\\":", "b": {"c": 1, "c" :2}}]', "twice"),
        (b'{"a": 9223372036854775808}', "too large"),
        (b"-9223372036854775809", "too large"),
        (b"9223372036854775808", "too large"),
        (b'{"a": [0.12345678901234567890, 9223372036854775808]}', "too large"),
        (b'{"a": -1.5E+309}', "too large"),
        (b"[" * 100_000 + b"]" * 100_000, "levels deep"),
        (b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2), "levels deep"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'\xff\xfe{\x00}\x00', "utf-8"),
        (b"", "Expecting value"),
        (b"{", "Expecting property"),
        (b"{} {}", "Extra data"),
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused_in_one_line(raw: bytes, told: str) -> None:
    with pytest.raises(NotJson, match=told) as caught:
        from_json(raw)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b'{"a" : 1, "b"\n: ": ", "c": "\\":\\"a\\":"}', {"a": 1, "b": ": ", "c": '":"a":'}),
        (b'{"a": {"a": {"a": 1}}, "b": [{"a": 2}, {"a": 3}]}', {"a": {"a": {"a": 1}}, "b": [{"a": 2}, {"a": 3}]}),
        (
            b"[9223372036854775807, -9223372036854775808, 0.00012345678901234567]",
            [2**63 - 1, -(2**63), 1.2345678901234567e-4],
        ),
        (b'["[[[[[[[[", "{{{{{{{{"]', ["[" * 8, "{" * 8]),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), json.loads("[" * (DEPTH + 1) + "]" * (DEPTH + 1))),
    ],
)
def test_any_strict_json_is_read(raw: bytes, content: Any) -> None:
    assert from_json(raw) == content


@pytest.mark.parametrize("content", [[], 3, None, "text", True, 1.5])
def test_an_object_is_expected(content: Any) -> None:
    assert from_json(to_json(content)) == content
    with pytest.raises(NotJson, match="not an object"):
        object_from_json(to_json(content))


def test_a_sealed_file_is_json_and_gives_its_content_back() -> None:
    raw = seal_json(CONTENT)
    assert unseal_json(raw) == CONTENT
    assert json.loads(raw)["name"] == CONTENT["name"]


def test_every_flipped_bit_of_a_sealed_file_is_found() -> None:
    raw = seal_json(CONTENT)
    for place in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(NotJson):
            unseal_json(bytes(flipped), unsealed=1)


@pytest.mark.parametrize("change", [lambda c: c | {"margin_pp": 9}, lambda c: {k: c[k] for k in list(c)[1:]}])
def test_a_sealed_file_that_was_written_anew_is_found(change: Any) -> None:
    with pytest.raises(NotJson, match="checksum"):
        unseal_json(to_json(change(json.loads(seal_json(CONTENT)))), unsealed=1)


def test_a_file_of_the_old_format_has_nothing_of_the_new_one() -> None:
    old = {"format": 1, "margin_pp": 0.5}
    assert unseal_json(to_json(old), unsealed=1) == old
    for broken in ({**old, "sha256": "0" * 64}, {**old, "format": 2}, {**old, "format": None}):
        with pytest.raises(NotJson, match="checksum"):
            unseal_json(to_json(broken), unsealed=1)
    with pytest.raises(NotJson, match="checksum"):
        unseal_json(to_json(old))
