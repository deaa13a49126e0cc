"""Checks: what is read back is whole, what is changed is not."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb import seal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.text().filter(lambda key: key != seal.KEY), VALUES, max_size=5)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(MAPPINGS, st.booleans(), st.booleans())
def test_a_mapping_is_whole_after_a_trip_through_json(values: dict[str, object], ascii_only: bool, wide: bool) -> None:
    whole = seal.sealed(values)
    assert {key: value for key, value in whole.items() if key != seal.KEY} == values
    text = json.dumps(whole, ensure_ascii=ascii_only, indent=2 if wide else None)
    assert seal.is_whole(json.loads(text))
    assert seal.sealed(json.loads(text)) == json.loads(text)


@given(MAPPINGS, st.text(min_size=1), VALUES)
def test_a_mapping_that_says_something_else_is_not_whole(values: dict[str, object], key: str, value: object) -> None:
    whole = seal.sealed(values)
    other = {**whole, key: value}
    same = json.dumps(other, sort_keys=True) == json.dumps(whole, sort_keys=True)
    assert seal.is_whole(other) is same
    assert not seal.is_whole(values)


@pytest.mark.parametrize("found", [{"a": float("inf"), "check": "00000000"}, {"a": float("nan"), "check": ""}])
def test_numbers_that_json_does_not_have_are_damage_when_read_and_refused_when_written(
    found: dict[str, object],
) -> None:
    assert not seal.is_whole(found)
    with pytest.raises(ValueError, match="JSON"):
        seal.sealed(found)


@given(TEXT, st.randoms(use_true_random=False))
def test_texts_and_rows_with_up_to_three_bits_changed_are_not_whole(text: str, rng: random.Random) -> None:
    whole = seal.sealed_text(text).encode()
    assert seal.is_whole_text(whole)
    row = seal.sealed_row(text).encode()
    assert seal.unsealed_row(row) == text.encode()
    for data, is_whole in ((whole, seal.is_whole_text), (row, lambda found: seal.unsealed_row(found) is not None)):
        changed = bytearray(data)
        for position in rng.sample(range(8 * len(data)), rng.randint(1, 3)):
            changed[position // 8] ^= 1 << position % 8
        assert not is_whole(bytes(changed))
        assert not is_whole(data[: rng.randrange(len(data))])
