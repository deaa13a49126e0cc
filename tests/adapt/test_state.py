"""What is kept of a stream from batch to batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from nasimb.adapt.state import State, mean_weight, new_look, remember


def test_predictions_are_kept_as_far_as_the_window_reaches() -> None:
    logits_NK = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    state = remember(State(), logits_NK[:4], logits_NK[:4] + 1, window=6)
    state = remember(state, logits_NK[4:7], None, window=6)
    assert state.predictions_NK is not None
    assert_close(state.predictions_NK, logits_NK[1:7].softmax(1))
    assert state.source_predictions_NK is not None
    assert len(state.source_predictions_NK) == 4
    assert state.unjudged == 7
    state = remember(state, logits_NK, logits_NK, window=6)  # a batch above the window
    assert state.predictions_NK is not None
    assert_close(state.predictions_NK, logits_NK[4:].softmax(1))


def test_a_look_at_a_refused_stream_begins_with_nothing_and_one_at_a_healthy_one_keeps_what_is_known() -> None:
    known, before = {"n": None}, remember(State(), torch.zeros(2, 3), torch.zeros(2, 3), 6)
    seen = replace(before, batches=9, known=known, unjudged=0, measured=5, looked=64, rested=80)
    refused = new_look(seen)
    assert refused == State(batches=9, since=9)
    healthy = new_look(replace(seen, adapting=True))
    assert healthy.known is healthy.before_look is known
    assert healthy.predictions_NK is before.predictions_NK
    assert healthy.source_predictions_NK is None
    assert (healthy.looked, healthy.rested, healthy.since, healthy.measured) == (0, 0, 0, 5)


def test_the_mean_weight_is_that_of_the_layers() -> None:
    assert mean_weight({}) == 0
    assert mean_weight({"a": torch.tensor(0.25), "b": torch.tensor(0.75)}) == pytest.approx(0.5)
