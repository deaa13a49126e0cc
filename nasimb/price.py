"""What time costs: "2.5/gpu-h" is 2.5 of whatever currency for an hour of one GPU."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nasimb.budget import Holding
from nasimb.errors import InputError

_EXAMPLE = (
    "Type an amount and what it buys: 2.5/gpu-h (an hour of a GPU), 0.04/cpu-h (of a thread) or 3/h (of a machine)."
)
_UNITS = ("gpu-h", "cpu-h", "h")


@dataclass(frozen=True, slots=True)
class Price:
    """The price of an hour of something.

    Attributes:
        text: as typed.
        amount: in any currency.
        unit: "gpu-h", "cpu-h", or "h": of a machine, whatever it holds.
    """

    text: str
    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Price:
        """Read "2.5/gpu-h", "0.04/cpu-h" or "3/h".

        Raises:
            InputError: no such price.

        >>> Price.parse("2.5/gpu-h").amount
        2.5
        """
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*/\s*([a-zA-Z-]+)", text.strip())
        if match is None:
            raise InputError("a price must be an amount for an hour of something", got=repr(text), do=_EXAMPLE)
        amount, unit = float(match[1]), match[2].lower()
        if unit not in _UNITS:
            raise InputError(f"a price must be for one of {', '.join(_UNITS)}", got=repr(match[2]), do=_EXAMPLE)
        if not math.isfinite(amount):
            raise InputError("a price must be finite", got=repr(text), do=_EXAMPLE)
        return cls(text.strip(), amount, unit)

    def check(self, holding: Holding) -> None:
        """Raise InputError where GPU time has a price and no GPU is held."""
        if self.unit == "gpu-h" and holding.gpus == 0:
            raise InputError(
                "a price of GPU time needs a GPU",
                got=f"{self.text!r} on a machine without one",
                do=f"Type what this machine costs an hour, --price {self.amount:g}/h, or one of its threads, "
                f"--price {self.amount / holding.threads:.3g}/cpu-h.",
            )

    def of(self, seconds: float, holding: Holding) -> float:
        """What holding so much for so long costs; `seconds` are added up over machines."""
        held = {"gpu-h": holding.gpus, "cpu-h": holding.threads, "h": 1}[self.unit]
        return self.amount * held * seconds / 3600
