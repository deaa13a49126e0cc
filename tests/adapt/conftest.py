"""One small trained network for all tests of this room."""

from __future__ import annotations

import pytest

from adapt.made_net import Made, trained


@pytest.fixture(scope="session")
def made() -> Made:
    return trained()
