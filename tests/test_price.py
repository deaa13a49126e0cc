"""Prices as typed, and what time costs by them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasimb.budget import Holding
from nasimb.errors import InputError
from nasimb.price import Price


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [("2.5/gpu-h", 2.5, "gpu-h"), (" .04 / cpu-h ", 0.04, "cpu-h"), ("3/H", 3.0, "h"), ("0/h", 0.0, "h")],
)
def test_prices_that_are_read(text: str, amount: float, unit: str) -> None:
    assert (Price.parse(text).amount, Price.parse(text).unit) == (amount, unit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2.5", "amount for an hour"), ("", "amount for an hour"), ("-1/h", "amount for an hour"),
        ("$3/h", "amount for an hour"), ("nan/h", "amount for an hour"), ("3/gpu-min", "'gpu-min'"),
        ("3/day", "'day'"), ("9" * 400 + "/h", "finite"),
    ],
)  # fmt: skip
def test_prices_that_are_none_say_what_to_type(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        Price.parse(text)
    assert "2.5/gpu-h" in str(refused.value)


def test_gpu_time_has_no_price_without_a_gpu() -> None:
    price = Price.parse("2.5/gpu-h")
    price.check(Holding(gpus=1, threads=8))
    with pytest.raises(InputError, match=r"2\.5/h") as refused:
        price.check(Holding(gpus=0, threads=8))
    assert "--price 0.312/cpu-h" in str(refused.value)


@given(st.floats(0, 1e3), st.sampled_from(["gpu-h", "cpu-h", "h"]), st.floats(0, 1e6), st.integers(1, 64))
def test_money_is_linear_in_price_time_and_devices(amount: float, unit: str, seconds: float, number: int) -> None:
    holding = Holding(gpus=number, threads=8 * number)
    one, three = Price(f"{amount}/{unit}", amount, unit), Price(f"{3 * amount}/{unit}", 3 * amount, unit)
    money = one.of(seconds, holding)
    assert three.of(seconds, holding) == pytest.approx(3 * money)
    assert one.of(2 * seconds, holding) == pytest.approx(2 * money)
    alone = {"gpu-h": Holding(1, 8), "cpu-h": Holding(1, 1), "h": holding}[unit]
    times = {"gpu-h": number, "cpu-h": 8 * number, "h": 1}[unit]
    assert one.of(seconds, alone) * times == pytest.approx(money)


def test_an_hour_of_eight_gpus() -> None:
    assert Price.parse("2.5/gpu-h").of(3600, Holding(8, 64)) == pytest.approx(20.0)
    assert Price.parse("2.5/gpu-h").of(8 * 3600, Holding(1, 8)) == pytest.approx(20.0)
