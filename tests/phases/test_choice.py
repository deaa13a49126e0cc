"""What goes to the test: written down and read back, and the head that ranked where no other was compared."""

from __future__ import annotations

import json

import pytest
import torch

from nasimb.heads import parse_head
from nasimb.heads.compare import Named, fit_head, label
from nasimb.phases.choice import Choice
from nasimb.search.trial import FINISHED, Candidate, Trial
from nasimb.space import Subnet

SUBNET = Subnet(resolution=8, depths=(1, 2), widths=(4, 8), kernel_sizes=(3, 5), norms=("bn", "nbn"), taps=2)


@pytest.mark.parametrize(
    ("head", "tau", "chosen", "told"),
    [
        ("gda", 0.0, "gda", "gda"),
        ("ridge", None, "ridge", "ridge"),
        ({"name": "gda", "taus": [0, 0.5, 2], "grid": [0.1]}, 0.0, "gda", "gda"),
        (
            {"name": "gda", "taus": [0, 0.5, 2], "class_weighting": "inverse_frequency"}, 2.0,
            {"name": "gda", "taus": [2.0], "class_weighting": "inverse_frequency"}, "gda + logit_adjustment(2)",
        ),
        ({"name": "quick_logistic", "steps": 20}, 0.0, {"name": "quick_logistic", "steps": 20}, "quick_logistic"),
    ],
)  # fmt: skip
def test_the_head_that_ranked_is_refitted_as_it_was(head: Named, tau: float | None, chosen: Named, told: str) -> None:
    spec = parse_head(head)
    trial = Trial(
        number=0, state=FINISHED, kind="random", candidate=Candidate(SUBNET, "source"), macs=1, params=1,
        score=0.5, head=spec.name, setting=0.1, tau=tau,
    )  # fmt: skip
    choice = Choice.of_trial(trial, spec, spec.estimator)
    assert choice.head == chosen
    assert label(choice.head) == told
    assert choice.estimator == ("5-fold" if spec.name == "quick_logistic" else "leave-one-out")
    again = Choice.from_line(json.loads(json.dumps(choice.to_line())))
    assert again == choice
    generator, labels_N = torch.Generator().manual_seed(0), torch.tensor([0] * 12 + [1] * 5 + [2] * 3)
    features_ND = torch.randn(20, 4, generator=generator)
    refitted = fit_head(again.head, features_ND, labels_N, 3, again.setting, (0.1,))
    expected = spec.chosen(tau or 0.0).fit(features_ND, labels_N, 3, 0.1)
    assert torch.equal(refitted.weight_KD, expected.weight_KD)
    assert torch.equal(refitted.bias_K, expected.bias_K)
