"""Passwords in addresses: hidden wherever an address is shown or written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import unquote

STORAGE_OPTION = "--storage"
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


def address_without_password(address: str) -> str:
    """One address, taken whole: a password may have spaces, and one that is no address may be all password.

    >>> address_without_password("postgresql://me:two words@db/runs")
    'postgresql://me:***@db/runs'
    >>> address_without_password("me:secret@db/runs")
    '***'
    """
    return without_passwords(_IN_WORD.sub(r"\1:***@", address)) if "://" in address else "***"


def command_without_passwords(words: Sequence[str]) -> list[str]:
    """Every word without its password; what --storage names is an address.

    >>> command_without_passwords(["search", "--storage", "me:secret@db/runs", "--run", "a b"])
    ['search', '--storage', '***', '--run', 'a b']
    """
    found = []
    for before, word in pairwise(["", *words]):
        option, equals, value = word.partition("=")
        if before == STORAGE_OPTION:
            word = address_without_password(word) if word != "-" else word
        elif option == STORAGE_OPTION and equals:
            word = f"{option}={address_without_password(value)}"
        elif "://" in word:
            word = address_without_password(word)
        found.append(word)
    return found
