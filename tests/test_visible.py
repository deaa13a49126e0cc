"""Names that a terminal would obey, as text that it shows."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from nasimb.visible import json_text, visible

ANY = st.text(st.characters(exclude_categories=()))


@given(ANY)
def test_nothing_is_left_to_obey_and_all_else_stays(text: str) -> None:
    shown = visible(text)
    assert not {"Cc", "Cs", "Zl", "Zp"} & {unicodedata.category(character) for character in shown}
    assert not {"RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"} & set(
        map(unicodedata.bidirectional, shown)
    )
    shown.encode()
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.recursive(ANY | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(ANY, inner)),
       st.sampled_from([None, 2]))  # fmt: skip
def test_json_means_the_same(value: object, indent: int | None) -> None:
    text = json_text(value, indent=indent)
    assert json.loads(text) == value
    assert visible(text.replace("\n", "")) == text.replace("\n", "")
    if indent is None:
        assert "\n" not in text
