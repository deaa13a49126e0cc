"""Checks that tell whether what is read is what was written: a CRC-32 beside every row, mapping and text.

It tells damage (every change of up to three bits, every burst of up to 32; all but one in four thousand million of
others), not intent: whoever changes a file on purpose can change its check too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from zlib import crc32

KEY = "check"
_COMMENT = re.compile(rb"(.*\n)# check: ([0-9a-f]{8})\n", re.DOTALL)


def check_of(data: bytes) -> str:
    """Eight hex digits."""
    return f"{crc32(data):08x}"


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the check of its other keys as the last.

    Raises:
        ValueError: it holds NaN, which JSON does not have.
    """
    bare = {key: value for key, value in values.items() if key != KEY}
    return {**bare, KEY: check_of(_canonical(bare))}


def is_whole(values: Mapping[str, Any]) -> bool:
    """Whether a mapping read back says what `sealed` was given."""
    try:
        return KEY in values and values[KEY] == sealed(values)[KEY]
    except ValueError:  # a number that damage made infinite
        return False


def sealed_text(text: str) -> str:
    """The same with its check as a comment in the last line, as YAML has comments."""
    text = text if text.endswith("\n") else text + "\n"
    return f"{text}# {KEY}: {check_of(text.encode())}\n"


def is_whole_text(data: bytes) -> bool:
    """Whether a text read back is what `sealed_text` made."""
    found = _COMMENT.fullmatch(data)
    return found is not None and check_of(found[1]).encode() == found[2]


def sealed_row(row: str) -> str:
    """A line of a table with its check as the last cell."""
    return f"{row},{check_of(row.encode())}"


def unsealed_row(line: bytes) -> bytes | None:
    """A line of `sealed_row` without its check; None if it does not match."""
    row, comma, check = line.rpartition(b",")
    return row if comma and check == check_of(row).encode() else None


def _canonical(values: Mapping[str, Any]) -> bytes:
    """The same bytes for what JSON reads back as the same."""
    # To JSON and back first: keys that are no text become text, and are sorted as such.
    plain = json.loads(json.dumps(values, allow_nan=False))
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
