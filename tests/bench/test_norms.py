"""NBN against batch norm: the arms, the trap at beta = 0, the figures by hand, and one quick comparison."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from nasimb.bench import norms
from nasimb.bench.base import Conditions, Skipped
from nasimb.bench.norms import ARMS, BASELINE, arm_space
from nasimb.bench.paired import holm
from nasimb.bench.rows import Rows
from nasimb.cli import main
from nasimb.errors import InputError, WorkError
from nasimb.nn.norms.nbn import NormalisedBatchNorm
from nasimb.space import SearchSpace
from nasimb.supernet import build_supernet

NBN_ARMS = tuple(arm for arm in ARMS if arm != BASELINE)
TWO_ARMS = {arm: ARMS[arm] for arm in (BASELINE, "nbn_published")}


def supernet_of(arm: str):
    space = arm_space(SearchSpace.load("digits-resnet"), arm)
    return build_supernet(space, 1, 10, torch.zeros(1), torch.ones(1), torch.Generator().manual_seed(0))


def test_arms_are_the_same_space_but_for_the_norm_of_the_last_stage() -> None:
    space = SearchSpace.load("digits-resnet")
    baseline = arm_space(space, BASELINE)
    assert {stage.norms for stage in baseline.stages} == {("bn",)}
    for arm in NBN_ARMS:
        found = arm_space(space, arm)
        assert found.size() == baseline.size()
        assert [stage.norms for stage in found.stages] == [("bn",), ("bn",), (arm,)]
        assert found.norm(arm)["name"] == "nbn"
        assert [stage.model_dump(exclude={"norms"}) for stage in found.stages] == [
            stage.model_dump(exclude={"norms"}) for stage in space.stages
        ]


@pytest.mark.parametrize("arm", NBN_ARMS)
def test_arms_start_where_they_should(arm: str) -> None:
    supernet = supernet_of(arm)
    layers = [layer for layer in supernet.modules() if isinstance(layer, NormalisedBatchNorm)]
    # Two blocks of the last stage, and the first one's shortcut; nothing of the other stages, of the stem or inside.
    assert len(layers) == 3
    own = sum(name.endswith(".scale") for name, _ in supernet.named_parameters())
    shared = sum(name.startswith("norm_scales") for name, _ in supernet.named_parameters())
    assert (own, shared) == ((3, 0) if arm == "nbn_default" else (0, 1))
    for layer in layers:
        assert layer.normalises_bias == (arm in ("nbn_published", "nbn_random_beta"))
        beta_length = float(layer.bias.detach().norm())
        assert beta_length == pytest.approx(1.0 if arm == "nbn_random_beta" else 0.0)
        weight_C, _ = layer.weight_and_bias(64)
        assert float(weight_C.detach().norm()) == pytest.approx(8.0 if arm == "nbn_default" else 1.0, rel=1e-5)


def test_arms_have_the_parameters_of_batch_norm_and_their_scalars() -> None:
    count = {arm: sum(p.numel() for p in supernet_of(arm).parameters()) for arm in ARMS}
    assert {arm: count[arm] - count[BASELINE] for arm in NBN_ARMS} == {
        "nbn_published": 1, "nbn_weight_only": 1, "nbn_random_beta": 1, "nbn_default": 3,
    }  # fmt: skip


def gradient_lengths(arm: str) -> float:
    """Length of the gradient of beta at the start, over that of an ordinary bias: one layer, one batch, by hand."""
    layer = ARMS[arm].build(64, torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(1)
    x_BCHW, aim_BCHW = (torch.randn(8, 64, 3, 3, generator=generator) for _ in range(2))
    weight_C, bias_C = (tensor.detach() for tensor in layer.weight_and_bias(64))
    plain_C = bias_C.clone().requires_grad_()
    y_BCHW = F.batch_norm(x_BCHW, None, None, weight_C, plain_C, training=True)
    torch.autograd.backward(F.mse_loss(y_BCHW, aim_BCHW))
    torch.autograd.backward(F.mse_loss(layer(x_BCHW, None), aim_BCHW))
    return float(layer.bias.grad.norm() / plain_C.grad.norm())


def test_the_beta_trap_is_there_as_published_and_in_no_other_arm() -> None:
    ratios = {arm: gradient_lengths(arm) for arm in NBN_ARMS}
    assert ratios["nbn_published"] == pytest.approx(1e6, rel=1e-3)
    assert ratios["nbn_weight_only"] == pytest.approx(1.0, rel=1e-4)
    assert ratios["nbn_default"] == pytest.approx(1.0, rel=1e-4)
    assert 0.5 < ratios["nbn_random_beta"] <= 1.001  # the part along beta itself has no effect


def test_slopes_at_the_start_are_those_of_the_layers(quick: Callable[..., Conditions]) -> None:
    found = {figure.figure: figure.value for figure in norms.beta_slope(quick())}
    assert set(found) == {f"beta_slope_{arm}" for arm in NBN_ARMS}
    assert found["beta_slope_nbn_published"] == pytest.approx(1e6, rel=1e-4)
    for arm in NBN_ARMS[1:]:
        assert found[f"beta_slope_{arm}"] == pytest.approx(1.0, rel=1e-4)


def rows_of(values: dict[tuple[int, str], tuple[float, float | None]]) -> Rows:
    rows = Rows(None, ("seed", "arm"), "abc")
    for (seed, arm), (balanced, few) in values.items():
        rows.append({"seed": seed, "arm": arm, "balanced_accuracy": balanced, "few": few})
    return rows


def test_differences_are_of_the_same_seed_and_in_points() -> None:
    values = {(0, "bn"): (0.5, 0.1), (0, "nbn_published"): (0.52, 0.2), (1, "bn"): (0.6, 0.2),
              (1, "nbn_published"): (0.64, 0.2), (2, "nbn_published"): (0.9, 0.9), (3, "bn"): (0.1, 0.1)}  # fmt: skip
    found = {figure.figure: figure for figure in norms.figures(rows_of(values), "x", ("balanced_accuracy", "few"), "?")}
    assert set(found) == {"x_balanced_accuracy_bn", "x_balanced_accuracy_nbn_published_minus_bn", "x_few_bn",
                          "x_few_nbn_published_minus_bn"}  # fmt: skip
    difference = found["x_balanced_accuracy_nbn_published_minus_bn"]
    assert difference.value == pytest.approx(3.0)
    assert difference.repetitions == 2
    assert difference.unit == "points"
    assert difference.detail["arm_points"] == pytest.approx(58.0)
    assert difference.detail["deviation_points"] == pytest.approx(2**0.5)
    assert str(difference.detail["verdict"]) == "Chance cannot be judged by 2 pairs where 3 are needed."
    assert found["x_few_nbn_published_minus_bn"].value == pytest.approx(5.0)


def test_verdicts_are_corrected_for_all_differences_of_the_table() -> None:
    """Four figures: two arms in two columns. By itself one has p < 0.05; together none has."""
    gains = {"nbn_published": (0.02, 0.024, 0.03), "nbn_default": (0.01, -0.02, 0.03)}
    values: dict[tuple[int, str], tuple[float, float | None]] = {(seed, "bn"): (0.5, 0.2) for seed in range(3)}
    values |= {
        (seed, arm): (0.5 + gains[arm][seed], 0.2 - gains[arm][2 - seed] ** 2) for seed in range(3) for arm in gains
    }
    found = [
        one for one in norms.figures(rows_of(values), "x", ("balanced_accuracy", "few"), "?") if "minus" in one.figure
    ]
    own = [float(one.detail["p_value"]) for one in found]  # type: ignore[arg-type]
    assert [one.detail["p_value_holm"] for one in found] == pytest.approx(holm(own))
    assert {one.detail["comparisons"] for one in found} == {4}
    first = found[0]
    assert first.figure == "x_balanced_accuracy_nbn_published_minus_bn"
    assert 0.0125 < own[0] < 0.05
    expected = stats.ttest_1samp([100 * gain for gain in gains["nbn_published"]], 0.0).pvalue
    assert own[0] == pytest.approx(expected, rel=1e-6)
    assert str(first.detail["verdict"]).startswith("No significant difference between nbn_published and bn (p = 0.0")
    assert "corrected by Holm" in str(first.detail["verdict"])


def test_differences_that_chance_cannot_be_judged_of_are_no_comparisons() -> None:
    """One arm has three seeds, the other two, so that it has no p value and corrects nobody else's."""
    gains = {"nbn_published": (0.02, 0.024, 0.03), "nbn_default": (0.01, -0.02)}
    values: dict[tuple[int, str], tuple[float, float | None]] = {(seed, "bn"): (0.5, 0.2) for seed in range(3)}
    values |= {(seed, arm): (0.5 + gain, 0.2) for arm in gains for seed, gain in enumerate(gains[arm])}
    found = {one.figure: one.detail for one in norms.figures(rows_of(values), "x", ("balanced_accuracy",), "?")}
    one, two = (found[f"x_balanced_accuracy_{arm}_minus_bn"] for arm in gains)
    assert (one["comparisons"], two["comparisons"]) == (1, 1)
    assert one["p_value_holm"] == one["p_value"]
    assert math.isnan(float(two["p_value_holm"]))  # type: ignore[arg-type]


def test_a_group_without_classes_has_no_figure_and_unpaired_seeds_none_at_all() -> None:
    values = {(0, "bn"): (0.5, None), (0, "nbn_published"): (0.5, None)}
    found = [figure.figure for figure in norms.figures(rows_of(values), "x", ("balanced_accuracy", "few"), "?")]
    assert found == ["x_balanced_accuracy_bn", "x_balanced_accuracy_nbn_published_minus_bn"]
    with pytest.raises(Skipped, match="No seed has both"):
        list(norms.figures(rows_of({(0, "bn"): (0.5, 0.5), (1, "nbn_published"): (0.5, 0.5)}), "x", ("few",), "?"))


def test_the_tail_is_the_rarest_classes() -> None:
    assert norms.rarest([50, 3, 9, 2, 70, 8, 60, 55, 80, 90]) == [1, 3, 5]
    assert norms.rarest([4, 4]) == [1]
    test = {"balanced_accuracy": 0.5, "many": None, "medium": 0.4, "few": 0.3, "recalls": [0.1, 0.2, 0.6]}
    assert norms.recalls(test, [1, 2]) == {
        "balanced_accuracy": 0.5, "many": None, "medium": 0.4, "few": 0.3, "tail": pytest.approx(0.4),
    }  # fmt: skip


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`run_command` that saves the imports of a process of its own."""

    def run(words: Sequence[str], log: Path, tick: Callable[[], None]) -> tuple[int, str]:
        tick()
        monkeypatch.setattr(sys, "argv", ["nasimb", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), ""

    return run


def without_times(rows: str) -> list[list[str]]:
    return [line.split(",")[:-1] for line in rows.splitlines()]


def test_searches_of_two_arms_and_resumed_rows_are_equal(
    quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(norms, "ARMS", TWO_ARMS)
    monkeypatch.setattr(norms, "run_command", in_this_process(monkeypatch))
    conditions = quick(folder=tmp_path / "kept")
    found = list(norms.norms_frozen(conditions))
    names = [figure.figure for figure in found]
    assert "frozen_balanced_accuracy_nbn_published_minus_bn" in names
    assert "frozen_largest_tail_bn" in names
    assert {figure.provenance["data"] for figure in found} == {"digits"}
    file = tmp_path / "kept" / norms.FROZEN_FILE
    whole = file.read_text()
    assert len(whole.splitlines()) == 3
    assert "bn-nbn_published" in whole
    file.write_text(whole[: whole.rstrip("\n").rfind("\n") + 1])  # the last search was interrupted
    again = list(norms.norms_frozen(conditions))
    assert without_times(file.read_text()) == without_times(whole)
    assert [(figure.figure, figure.value) for figure in again] == [(figure.figure, figure.value) for figure in found]


def test_a_ready_supernet_is_refused(quick: Callable[..., Conditions]) -> None:
    conditions = quick()
    config = conditions.config.model_copy(update={"supernet": "there"})
    with pytest.raises(InputError, match="every norm must have a super-network of its own"):
        list(norms.norms_frozen(quick(config=config)))


def test_a_search_that_fails_is_said(quick: Callable[..., Conditions], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "run_command", lambda words, log, tick: (1, "nasimb: the disk is full."))
    with pytest.raises(WorkError, match="a search must end; got nasimb: the disk is full"):
        list(norms.norms_frozen(quick()))
