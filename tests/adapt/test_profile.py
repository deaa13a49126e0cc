"""Training images class by class, against numpy and scipy over all pixels; and what is kept and refused."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.testing import assert_close

from adapt.made_net import CLASSES, Made, corrupted
from nasimb.adapt import BatchNormAdapter, ClassProfile, class_profile
from nasimb.adapt.profile import ClassSums, square_shift, unexplained_shift
from nasimb.errors import InputError
from nasimb.nn.mixing import sampled
from nasimb.nn.moments import Moments
from nasimb.nn.norms.evonorm_b0 import PlainEvoNormB0

CHANNELS = 2


def drawn(images: int, seed: int) -> Tensor:
    """Skewed values around a mean of each image, far from 0."""
    generator = torch.Generator().manual_seed(seed)
    of_images = torch.empty(images, CHANNELS, 1, 1).exponential_(generator=generator)
    return 3 + of_images + 0.5 * torch.randn(images, CHANNELS, 3, 4, generator=generator)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_moments_in_any_shares_are_those_of_the_pixels_of_images_in_them(counts: list[int], seed: int) -> None:
    """A class of weight n / images counts as n copies of its images' pixels would."""
    parts = [drawn(5, seed + k) + k for k in range(len(counts))]
    sums = ClassSums(len(counts), CHANNELS, torch.device("cpu"))
    for k, part in enumerate(parts):
        sums.add(part[:2], torch.full((2,), k))
    for k, part in enumerate(parts):
        sums.add(part[2:], torch.full((3,), k))
    pooled = torch.cat([part for part, count in zip(parts, counts, strict=True) for _ in range(count)]).double().numpy()
    found = sums.profile().moments(torch.tensor(counts) / sum(counts))
    np.testing.assert_allclose(found.mean_C, pooled.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.var_C, pooled.var((0, 2, 3)), rtol=1e-4)


def test_cumulants_of_image_means_are_those_of_scipy() -> None:
    sums, x_BCHW = ClassSums(2, CHANNELS, torch.device("cpu")), drawn(500, seed=0)
    for part in x_BCHW.split(128):
        sums.add(part, torch.zeros(len(part), dtype=torch.long))
    found, means = sums.profile(), x_BCHW.double().mean((2, 3)).numpy()
    np.testing.assert_allclose(found.image_var_C, stats.moment(means, 2), rtol=1e-4)
    np.testing.assert_allclose(found.third_C, stats.moment(means, 3), rtol=1e-3)
    np.testing.assert_allclose(found.fourth_C, stats.moment(means, 4) - 3 * means.var(0) ** 2, rtol=1e-2)
    # The unbiased estimates differ by parts of 1 / 500.
    for channel in range(CHANNELS):
        assert float(found.third_C[channel]) == pytest.approx(stats.kstat(means[:, channel], 3), rel=0.03)


def test_a_class_without_images_is_like_all_of_them() -> None:
    sums, x_BCHW = ClassSums(3, CHANNELS, torch.device("cpu")), drawn(6, seed=1)
    sums.add(x_BCHW, torch.tensor([0, 0, 2, 2, 2, 0]))
    found = sums.profile()
    expected = x_BCHW.double().numpy()
    np.testing.assert_allclose(found.mean_KC[1], expected.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.var_KC[1], expected.var((0, 2, 3)), rtol=1e-4)
    only_1 = found.moments(torch.tensor([0.0, 1.0, 0.0]))
    assert_close(only_1.mean_C, found.mean_KC[1])


def inputs_of_norms(model: nn.Module, images_NCHW: Tensor) -> dict[str, Tensor]:
    """By hooks of torch, taken away again."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: found.__setitem__(name, inputs[0].clone()))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        found["logits"] = model(images_NCHW)
    for handle in handles:
        handle.remove()
    return found


def test_a_profile_describes_the_inputs_of_the_norms_class_by_class(made: Made) -> None:
    images_NCHW, labels_N = made.images_NCHW[:90], made.labels_N[:90]
    found = class_profile(made.model, images_NCHW, labels_N, batch_size=32)
    inputs = inputs_of_norms(made.model, images_NCHW)
    predictions_NK = inputs.pop("logits").softmax(1)
    of_class_KK = torch.stack([predictions_NK[labels_N == k].mean(0) for k in range(CLASSES)])
    assert_close(found.predicted_K, found.shares_K @ of_class_KK)
    assert set(found.layers) == set(inputs)
    assert all(found.running.values())
    for name, x_NCHW in inputs.items():
        for k in range(CLASSES):
            x = x_NCHW[labels_N == k].double().numpy()
            np.testing.assert_allclose(found.layers[name].mean_KC[k], x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.layers[name].var_KC[k], x.var((0, 2, 3)), rtol=1e-3, atol=1e-5)


def with_statistics_of(model: nn.Module, images_NCHW: Tensor) -> nn.Module:
    """A copy whose batch norms hold the moments of these images, set one after the other."""
    model = copy.deepcopy(model).eval()

    def hold(layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        layer.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        layer.running_var.copy_(inputs[0].var((0, 2, 3), correction=0))

    handles = [layer.register_forward_pre_hook(hold) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    with torch.no_grad():
        model(images_NCHW)
    for handle in handles:
        handle.remove()
    return model


def test_the_classes_behind_the_statistics_need_not_be_those_of_the_images(made: Made) -> None:
    """Statistics of balanced images, described by long-tailed ones, and the other way round."""
    by_class = [torch.nonzero(made.labels_N == k)[:, 0] for k in range(CLASSES)]
    balanced_N = torch.cat([members[:24] for members in by_class])
    long_N = torch.cat([members[: 40 // 3**k] for k, members in enumerate(by_class)])
    own_K = made.labels_N[long_N].bincount(minlength=CLASSES) / len(long_N)
    for behind_N, wanted_K in ((balanced_N, torch.full((CLASSES,), 1 / CLASSES)), (long_N, own_K)):
        model = with_statistics_of(made.model, made.images_NCHW[behind_N])
        found = class_profile(model, made.images_NCHW[long_N], made.labels_N[long_N])
        assert_close(found.shares_K, wanted_K, rtol=0, atol=0.06)


def test_many_classes_take_no_table_of_classes(made: Made) -> None:
    """100,000 classes: a table of them would take 40 GB."""
    model = nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 100_000)
    )
    found = class_profile(model, made.images_NCHW[:40], torch.arange(40) * 2000)
    assert float(found.predicted_K.sum()) == pytest.approx(1, abs=1e-4)
    assert int((found.shares_K > 0).sum()) == 40


def test_norms_without_means_say_nothing_of_the_shares(made: Made) -> None:
    convolution = nn.Conv2d(3, 4, 3, bias=False)
    model = nn.Sequential(convolution, PlainEvoNormB0(4, 1e-5, 0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # Many bright and a few dark ones: equally many would be nearer to 0.
    bright, dark = ((made.labels_N == k).nonzero()[:, 0] for k in (2, 3))
    images_NCHW = made.images_NCHW[torch.cat([bright[:150], dark[:50]])]
    found = class_profile(model, images_NCHW, torch.arange(200) // 150)
    assert_close(found.shares_K, torch.tensor([0.75, 0.25, 0, 0]))


def test_the_noise_of_the_means_of_classes_is_that_of_drawing_other_images() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [3, 12, 40]
    labels_N = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    profiles = []
    for _ in range(300):
        of_images = labels_N[:, None, None, None] + 0.7 * torch.randn(
            len(labels_N), CHANNELS, 1, 1, generator=generator
        )
        sums = ClassSums(3, CHANNELS, torch.device("cpu"))
        sums.add(of_images + 0.5 * torch.randn(len(labels_N), CHANNELS, 2, 2, generator=generator), labels_N)
        profiles.append(sums.profile())
    true_KC = torch.stack([one.mean_KC for one in profiles]).var(0)
    found_KC = torch.stack([one.noise_KC for one in profiles]).mean(0)
    assert_close(found_KC, true_KC, rtol=0.25, atol=0)
    assert_close(found_KC[:, 0], (0.7**2 + 0.5**2 / 4) / torch.tensor(counts), rtol=0.05, atol=0)


def test_windows_of_one_class_say_less_than_those_of_many(made: Made) -> None:
    reference = made.profile.reference
    assert reference.single_information is not None
    assert reference.mixed_information > 2 * reference.single_information
    assert 0 < reference.unexplained < 0.1


def test_the_model_is_left_as_it_is(made: Made) -> None:
    model = nn.Sequential(made.model).train()
    try:
        before = {name: one.clone() for name, one in model.state_dict().items()}
        class_profile(model, made.images_NCHW[:40], made.labels_N[:40])
        assert all(module.training for module in model.modules())
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval()


def test_the_same_seed_gives_the_same_profile_and_a_few_images_give_one(made: Made) -> None:
    images_NCHW, labels_N = made.images_NCHW[:200], made.labels_N[:200]
    a, b = (class_profile(made.model, images_NCHW, labels_N, seed=3) for _ in range(2))
    assert a.reference == b.reference
    single = class_profile(made.model, images_NCHW[:1], labels_N[:1])
    assert single.reference.single_information is None
    assert single.shares_K.tolist() == [float(k == labels_N[0]) for k in range(CLASSES)]


def test_what_is_saved_is_loaded_bit_by_bit(made: Made, tmp_path: Path) -> None:
    made.profile.save(tmp_path / "a" / "profile.safetensors")
    found = ClassProfile.load(tmp_path / "a" / "profile.safetensors")
    assert torch.equal(found.shares_K, made.profile.shares_K)
    assert torch.equal(found.predicted_K, made.profile.predicted_K)
    assert asdict(found.reference) == asdict(made.profile.reference)
    assert found.running == made.profile.running
    assert list(found.layers) == list(made.profile.layers)
    for name, layer in made.profile.layers.items():
        assert all(torch.equal(getattr(found.layers[name], key), value) for key, value in vars(layer).items())


def test_files_that_are_no_profile_are_refused(made: Made, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(InputError, match=r"must exist.*class_profile"):
        ClassProfile.load(tmp_path / "none")
    (tmp_path / "text").write_text("not at all")
    with pytest.raises(InputError, match="whole safetensors file"):
        ClassProfile.load(tmp_path / "text")
    made.profile.save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-100])
    with pytest.raises(InputError, match="whole safetensors file"):
        ClassProfile.load(tmp_path / "cut")
    for number, description in enumerate(
        ("{", "[]", "null", '{"schema": "other"}', '{"schema": "nasimb-class-profile-1", "running": {"x": true}}')
    ):
        save_file({"shares_K": torch.ones(2)}, tmp_path / str(number), metadata={"profile": description})
        with pytest.raises(InputError, match="must be a class profile"):
            ClassProfile.load(tmp_path / str(number))
    save_file({"shares_K": torch.ones(2)}, tmp_path / "plain")
    with pytest.raises(InputError, match="must be a class profile"):
        ClassProfile.load(tmp_path / "plain")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 4]), "below the 4 classes of the model; got 4"),
        (torch.tensor([0, -1, 2]), "integers from 0; got torch.int64 from -1"),
        (torch.tensor([0.0, 1.0, 2.0]), "integers from 0; got torch.float32 from 0"),
        (torch.tensor([0, 1]), r"every image must have a label; got 3 images, labels \[2\]"),
        (torch.tensor([[0], [1], [2]]), r"every image must have a label; got 3 images, labels \[3, 1\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(made: Made, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_profile(made.model, made.images_NCHW[:3], labels)


def test_images_that_do_not_fit_are_refused(made: Made) -> None:
    broken = made.images_NCHW[:3].clone()
    broken[1, 0, 2, 2] = torch.inf
    with pytest.raises(InputError, match="pixels must be finite; got NaN or infinite ones in image 1"):
        class_profile(made.model, broken, made.labels_N[:3])
    with pytest.raises(InputError, match="every image must have a label; got 0 images"):
        class_profile(made.model, broken[:0], made.labels_N[:0])


def test_a_profile_of_another_model_is_refused(made: Made) -> None:
    wide = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    with pytest.raises(InputError, match="must describe every layer that is adapted; got none of 1"):
        BatchNormAdapter(wide, profile=made.profile)
    other = class_profile(wide, made.images_NCHW[:20], made.labels_N[:20])
    narrow = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=r"channels of the model \(1: 4\); got 5"):
        BatchNormAdapter(narrow, profile=other)
    five = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="the 5 classes of the model; got 4"):
        BatchNormAdapter(five, profile=other)(made.images_NCHW[:20])


def test_other_classes_explain_a_shift_and_another_contrast_does_not(made: Made) -> None:
    of_two = made.labels_N < 2
    limit = made.profile.reference.unexplained

    def unexplained(images_NCHW: Tensor) -> tuple[float, float]:
        inputs = inputs_of_norms(made.model, images_NCHW)
        shares_K = inputs.pop("logits").softmax(1).mean(0)
        seen = {name: sampled(x) for name, x in inputs.items()}
        layers = made.profile.layers
        return unexplained_shift(layers, shares_K, seen), unexplained_shift(layers, made.profile.shares_K, seen)

    with_classes, without = unexplained(made.images_NCHW[of_two][:256])
    assert with_classes < limit < without / 5
    assert unexplained(corrupted(made.images_NCHW[:256]))[0] > 3 * limit


def test_a_shift_is_measured_without_the_noise_of_few_images() -> None:
    """2,000 channels whose images are drawn as expected, then half a deviation away."""
    generator = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(8, 2000, 1, 1, generator=generator) + 0.5 * torch.randn(8, 2000, 4, 4, generator=generator)
    expected = Moments(torch.zeros(2000), torch.full((2000,), 1.25))
    plain = float(((sampled(x_BCHW).moments.mean_C) ** 2 / 1.25).mean())
    assert plain > 0.08
    assert abs(square_shift(expected, sampled(x_BCHW))) < plain
    moved = square_shift(expected, sampled(x_BCHW + 0.5))
    assert moved - square_shift(expected, sampled(x_BCHW)) == pytest.approx(0.25 / 1.25, rel=0.15)
