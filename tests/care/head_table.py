"""Prints the table behind `nasimb.care.head`: on every pair, what a head lost and what was left out of it, by seed.

NASIMB_DATA=DIR PYTHONPATH=tests python tests/care/head_table.py [NAME...]      # 20 minutes for all; digits need no DIR
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from care.headcost import accuracies, as_input, network, outputs, trained
from care.other_pairs import DIGITS, REAL, Sides, of_digits
from care.pairs import coloured, inverted, long_tail, turned
from nasimb.care.features import simple
from nasimb.care.head import head_check
from nasimb.data.base import ImageSet

EVEN, ODD = range(0, 10, 2), range(1, 10, 2)


def made_of(change: Callable[[ImageSet], ImageSet]) -> Sides:
    source, target, test = of_digits(None)
    return source, change(target), change(test)


def tailed() -> Sides:
    source, target, test = of_digits(None)
    return source, long_tail(target), test


CALIBRATION: dict[str, Callable[[], Sides]] = {
    "the same": lambda: of_digits(None),
    "a long tail": tailed,
    "higher digits": lambda: of_digits(None, range(5), range(5, 10)),
    "lower digits": lambda: of_digits(None, range(5, 10), range(5)),
    "odd digits": lambda: of_digits(None, EVEN, ODD),
    "inverted": lambda: made_of(inverted),
    "other digits, inverted": lambda: of_digits(lambda x: 255 - x, EVEN, ODD),
    "coloured": lambda: made_of(coloured),
    "turned": lambda: made_of(turned),
}
"""The digits pairs of the gap's limits, which had no say in those of the head; photos have no test images."""


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name, make in {**DIGITS, **REAL, **CALIBRATION}.items():
        if names and name not in names:
            continue
        source, target, test = make()
        channels, told = max(source.channels, target.channels), []
        for seed in (0, 1):
            torch.manual_seed(seed)
            net = trained(network(channels, source.num_classes), as_input(source, channels), source.labels_N, seed)
            frozen_ND = outputs(net[:-1], as_input(target, channels))
            found = head_check(target, frozen_ND, simple().of(target, channels=channels))
            assert found is not None
            head, on, anew = accuracies(source, target, test, seed)
            told.append(f"lost {100 * (max(on, anew) - head):5.1f}, left out {100 * found.frozen:5.1f}")
        print(f"{name:38s} {'; '.join(told)}; simple {100 * found.simple:5.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
