from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from care.pairs import digits, pixels
from nasimb.care.features import frozen, luma, simple, simple_features
from nasimb.errors import InputError


def test_grey_values_are_pillows() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    found = luma(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(found.numpy(), np.array(Image.fromarray(rgb).convert("L")), atol=1)


def test_a_ramp_has_its_pixels_and_one_direction() -> None:
    ramp = (torch.arange(32) * 8).to(torch.uint8).expand(1, 1, 32, 32)
    (features_D,) = simple_features(ramp)
    assert len(features_D) == 64 + 4 * 4 * 8
    expected = (torch.arange(32).float() * 8 / 255).view(8, 4).mean(1)
    torch.testing.assert_close(features_D[:64].view(8, 8), expected.expand(8, 8))
    directions_O = features_D[64:].view(8, 16).sum(1)
    assert directions_O[0] > 0  # to the right, and no other
    assert (directions_O[1:] == 0).all()
    assert float(features_D[64:].norm()) == pytest.approx(1)
    # Down is a quarter turn on; an inverted ramp rises the other way.
    down = simple_features(ramp.transpose(2, 3))[0, 64:].view(8, 16).sum(1)
    back = simple_features(255 - ramp)[0, 64:].view(8, 16).sum(1)
    assert (int(down.argmax()), int(back.argmax())) == (2, 4)


def test_features_follow_the_order_of_the_set_and_the_channels_asked_for() -> None:
    train = digits(0, 1).train
    grey, colour = simple().of(train), simple().of(train, channels=3)
    torch.testing.assert_close(grey, simple_features(pixels(train)))
    assert (grey.shape[1], colour.shape[1]) == (64 + 128, 3 * 64 + 128)


def test_a_plain_image_has_finite_features() -> None:
    assert torch.isfinite(simple_features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))).all()


def test_features_of_a_super_network_are_those_of_its_largest_subnet(finished_run: Path) -> None:
    from nasimb.phases.supernet import load
    from nasimb.supernet.calibrate import Calibration, calibrate

    features = frozen(finished_run / "supernet")
    ready = load(finished_run / "supernet", torch.device("cpu"))
    subnet = ready.supernet.space.largest()
    assert features.size == ready.supernet.space.max_resolution
    train = digits(0, 1).train
    found_ND = features.of(train)
    assert found_ND.shape == (len(train), ready.supernet.feature_dim(subnet))
    statistics = calibrate(ready.supernet, subnet, Calibration.on(ready.source_images_BCHW))
    network = ready.supernet.extract(subnet, statistics).eval()
    with torch.no_grad():
        torch.testing.assert_close(found_ND[:5], network(pixels(train)[:5]), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError):
        frozen(finished_run / "nowhere")
