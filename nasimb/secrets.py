"""Passwords in addresses: hidden wherever an address is shown or written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

_IN_ADDRESS = re.compile(r"(://[^:/@\s]*):([^\s]*)@")
_IN_WORD = re.compile(r"(://[^:/@\s]*):(.*)@", re.DOTALL)
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)([^&\s]+)", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """The text with *** in place of the password of every address in it.

    >>> without_passwords("postgresql://me:secret@db/runs is down")
    'postgresql://me:***@db/runs is down'
    """
    return _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub(r"\1:***@", text))


def without_password_of(address: str, text: str) -> str:
    """`without_passwords`, and the address's own password hidden wherever else the text has it.

    >>> without_password_of("postgresql://me:secret@db/runs", "no entry for me with secret")
    'no entry for me with ***'
    """
    text = without_passwords(text)
    for password in (match[2] for kind in (_IN_WORD, _IN_QUERY) for match in kind.finditer(address)):
        for written in {password, unquote(password)} - {""}:
            text = text.replace(written, "***")
    return text


def command_without_passwords(words: Sequence[str]) -> list[str]:
    """`without_passwords` of every word, each taken whole: a password may have spaces."""
    return [without_passwords(_IN_WORD.sub(r"\1:***@", word)) for word in words]
