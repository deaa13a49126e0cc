"""In which order the images of a site come; apart from what reads them, so that a command line is quick to parse."""

from __future__ import annotations

from enum import StrEnum


class Order(StrEnum):
    """See `nasimb.onsite.images.load_site`."""

    auto = "auto"
    given = "given"
    shuffled = "shuffled"
