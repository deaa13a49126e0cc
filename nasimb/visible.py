"""Text from files and folders as a terminal or a page may have it: what would be obeyed there is written out instead.

Names of files and classes may hold anything: an escape sequence that rewrites the screen, a line break, a byte that is
no UTF-8.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

# Controls (C0, DEL, C1), marks that turn the direction of text, line separators, halves of surrogate pairs.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

_NOT_UTF8 = re.compile(r'"[^"]*[\ud800-\udfff][^"]*"')


def visible(text: str) -> str:
    r"""The text with control characters written out, by the number of each.

    >>> visible("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def encodable(text: str | Path) -> str:
    r"""The text as UTF-8 can hold it: bytes of a file's name that are no UTF-8 are written out.

    >>> encodable("caf\udce9.png")
    'caf\\udce9.png'
    """
    return str(text).encode(errors="backslashreplace").decode()


def not_utf8(value: object) -> str | None:
    r"""The first text in lists and mappings that UTF-8 cannot hold, as `encodable` writes it, or None.

    >>> not_utf8({"data": ["é", "caf\udce9"]})
    'caf\\udce9'
    """
    found = _NOT_UTF8.search(json.dumps(value, ensure_ascii=False, default=str))
    return None if found is None else encodable(found[0][1:-1])


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON that means the same, with what a terminal would obey, or an encoding lacks, as escapes of JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "\n".join(visible(line) for line in text.split("\n"))
