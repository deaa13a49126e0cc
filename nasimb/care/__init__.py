"""Care for the data before a search: what `nasimb data inspect --html` looks for.

Start with `look_closer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasimb.lazily import lazily

if TYPE_CHECKING:
    from nasimb.care.look import CloserLook, look_closer
else:
    __getattr__ = lazily(__name__, dict.fromkeys(["CloserLook", "look_closer"], "nasimb.care.look"))

__all__ = ["CloserLook", "look_closer"]
