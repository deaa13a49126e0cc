"""Text from files and folders as a terminal or a page may have it: what would be obeyed there is written out instead.

Names of files and classes may hold anything: an escape sequence that rewrites the screen, a line break, a byte that is
no UTF-8.
"""

from __future__ import annotations

import json
import re

# Controls (C0, DEL, C1), marks that turn the direction of text, line separators, halves of surrogate pairs.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with control characters written out, by the number of each.

    >>> visible("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON that means the same, with what a terminal would obey, or an encoding lacks, as escapes of JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "\n".join(visible(line) for line in text.split("\n"))
