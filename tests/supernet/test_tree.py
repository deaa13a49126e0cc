"""Shared prefixes: the same bits as alone, the numbers of the plain network, and the work of each step once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasimb.errors import WorkError
from nasimb.space import SearchSpace, Subnet
from nasimb.supernet.base import Supernet
from nasimb.supernet.calibrate import CALIBRATIONS, Calibration, calibrate, inherited_statistics
from nasimb.supernet.fold import folded
from nasimb.supernet.tree import SubnetTree

NewSupernet = Callable[..., Supernet]
function_scoped = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def on(count: int, seed: int = 0) -> dict[str, Calibration]:
    return {"source": Calibration.on(pixels(count, seed))}


def every_policy(supernet: Supernet) -> dict[str, Calibration]:
    """Twenty images of the source and twelve of a darker target, for those that look at them; updates of five."""
    source_BCHW, target_BCHW = pixels(20, 1), pixels(12, 2) // 2
    kept, found = inherited_statistics(supernet, source_BCHW), {}
    for name, policy in CALIBRATIONS.items():
        policy = replace(policy, batch=5 if policy.batch else None)
        target = target_BCHW[: 0 if policy.target is None else None]
        found[name] = Calibration(policy, source_BCHW[: policy.source], target, len(target), kept)
    return found


def family(space: SearchSpace, seed: int, size: int) -> list[tuple[str, Subnet]]:
    """Subnets of which many differ in one choice only, under all policies."""
    rng, policies = np.random.default_rng(seed), list(CALIBRATIONS)
    first = space.sample(rng)
    found = [("source", first)]
    for _ in range(size - 1):
        values = space.values(found[rng.integers(len(found))][1])
        name = list(values)[rng.integers(len(values))]
        values[name] = space.choices()[name][rng.integers(len(space.choices()[name]))]
        found.append((policies[rng.integers(len(policies))], space.subnet(values)))
    return found


@function_scoped
@given(seed=st.integers(0, 1000))
def test_features_and_statistics_are_those_of_every_subnet_alone(
    new_supernet: NewSupernet, space: SearchSpace, seed: int
) -> None:
    supernet, images_BCHW = new_supernet(seed), pixels(7, 3)
    calibration = every_policy(supernet)
    requests = family(space, seed, 9)
    tree = SubnetTree(supernet, requests, calibration)
    together = tree.features(images_BCHW)
    assert together.keys() == set(range(9))
    backwards = SubnetTree(supernet, requests[::-1], calibration).features(images_BCHW)
    for member, request in enumerate(requests):
        alone = SubnetTree(supernet, [request], calibration)
        assert torch.equal(together[member], alone.features(images_BCHW)[0])
        assert torch.equal(together[member], backwards[8 - member])
        assert torch.equal(tree.features(images_BCHW, [member])[member], together[member])
        expected = calibrate(supernet, request[1], calibration[request[0]])
        found = tree.statistics(member)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key].mean_C, expected[key].mean_C) for key in expected)
        assert all(torch.equal(found[key].var_C, expected[key].var_C) for key in expected)
        given = SubnetTree.alone(supernet, request[1], expected)
        assert torch.equal(given.features(images_BCHW)[0], together[member])


@function_scoped
@given(seed=st.integers(0, 1000))
def test_folded_features_are_those_of_the_plain_network(
    new_supernet: NewSupernet, space: SearchSpace, seed: int
) -> None:
    supernet, images_BCHW = new_supernet(seed), pixels(6, 4)
    calibration = on(30, 1)
    subnet = space.sample(np.random.default_rng(seed))
    tree = SubnetTree(supernet, [("source", subnet)], calibration)
    with torch.no_grad():
        plain_BD = supernet.extract(subnet, tree.statistics(0))(images_BCHW)
    torch.testing.assert_close(tree.features(images_BCHW)[0], plain_BD, rtol=1e-4, atol=1e-4)


def test_every_shared_step_runs_once(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, first = new_supernet(), space.largest()
    last_differs = replace(first, kernel_sizes=(first.kernel_sizes[0], 3))
    taps_differ = replace(first, taps=1)
    tree = SubnetTree(supernet, [("source", subnet) for subnet in (first, last_differs, taps_differ)], on(5))
    # Stem and two blocks in common; the second stage's two blocks once for each kernel size, none for the taps.
    assert len({node for path in tree._paths for node in path}) == 1 + 2 + 2 + 2
    convolutions = 0

    def counting(*_: object) -> None:
        nonlocal convolutions
        convolutions += 1

    nodes = {id(node): node for path in tree._paths for node in path}.values()
    for node in nodes:
        assert node.folded is not None
        for layer in node.folded.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(counting)
    tree.features(pixels(2))
    assert convolutions == sum(
        isinstance(layer, nn.Conv2d) for node in nodes if node.folded for layer in node.folded.modules()
    )


def test_no_norm_is_left_to_run_in_a_folded_network(new_supernet: NewSupernet, space: SearchSpace) -> None:
    tree = SubnetTree(new_supernet(), [("source", space.largest())], on(5))
    layers = [layer for node in tree._paths[0] if node.folded for layer in node.folded.modules()]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)


def test_bfloat16_features_are_near_and_come_in_float32(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, images_BCHW, calibration = new_supernet(), pixels(6, 4), on(30, 1)
    request = [("source", space.largest())]
    exact_BD = SubnetTree(supernet, request, calibration).features(images_BCHW)[0]
    rough_BD = SubnetTree(supernet, request, calibration, dtype=torch.bfloat16).features(images_BCHW)[0]
    assert rough_BD.dtype == torch.float32
    assert not torch.equal(rough_BD, exact_BD)
    assert float((rough_BD - exact_BD).norm() / exact_BD.norm()) < 0.03


def test_maps_over_the_limit_say_what_to_lower(new_supernet: NewSupernet, space: SearchSpace) -> None:
    with pytest.raises(WorkError, match="Lower calibration_images"):
        SubnetTree(new_supernet(), [("source", space.largest())], on(50), limit_bytes=10_000)


def test_maps_are_kept_only_where_subnets_part(new_supernet: NewSupernet, space: SearchSpace) -> None:
    """A chain needs the maps of two neighbouring steps at a time, however deep it is."""
    supernet, calibration = new_supernet(), on(50)
    largest = [("source", space.largest())]
    stem_bytes = 50 * 4 * 8 * 8 * 4
    widest_bytes = 50 * 6 * 8 * 8 * 4
    SubnetTree(supernet, largest, calibration, limit_bytes=stem_bytes + 2 * widest_bytes)
    with pytest.raises(WorkError):
        SubnetTree(supernet, largest, calibration, limit_bytes=widest_bytes)


def test_both_sides_of_a_mixture_count_for_the_limit(new_supernet: NewSupernet, space: SearchSpace) -> None:
    supernet, requests = new_supernet(), [("mixed", space.largest())]
    policy, stem_bytes, widest_bytes = CALIBRATIONS["mixed"], 50 * 4 * 8 * 8 * 4, 50 * 6 * 8 * 8 * 4
    one = {"mixed": Calibration(policy, pixels(40), pixels(10, 1), 10)}
    two = {"mixed": Calibration(policy, pixels(50), pixels(50, 1), 50)}
    SubnetTree(supernet, requests, one, limit_bytes=stem_bytes + 2 * widest_bytes)
    with pytest.raises(WorkError, match="Lower calibration_images"):
        SubnetTree(supernet, requests, two, limit_bytes=stem_bytes + 2 * widest_bytes)


def test_a_norm_of_ones_own_is_not_taken_for_a_batch_norm() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            return 2 * super().forward(x_BCHW)

    conv, norm = nn.Conv2d(3, 4, 3, bias=False).eval(), Doubled(4).eval()
    x_BCHW = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(conv, norm)(x_BCHW), norm(conv(x_BCHW)))


def test_work_ends_between_two_steps(new_supernet: NewSupernet, space: SearchSpace) -> None:
    calls = 0

    def between() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SubnetTree(new_supernet(), [("source", space.largest())], on(5), between=between)
    assert calls == 3
