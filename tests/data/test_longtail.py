from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasimb.data import parse_dataset
from nasimb.data.base import ImageSet, LoadRequest
from nasimb.data.longtail import class_counts, imbalance_factor, make_long_tailed
from nasimb.data.store import TensorStore
from nasimb.errors import InputError

# reference/long_tail.md section 2.2: (n_max, K, factor) -> total exponential, min, many/medium/few, total step
TOTALS = [
    (5000, 10, 10, 20_431, 500, (10, 0, 0), 27_500),
    (5000, 10, 20, 17_023, 250, (10, 0, 0), 26_250),
    (5000, 10, 50, 13_996, 100, (9, 1, 0), 25_500),
    (5000, 10, 100, 12_406, 50, (8, 2, 0), 25_250),
    (5000, 10, 200, 11_203, 25, (7, 3, 0), 25_125),
    (500, 100, 10, 19_573, 50, (69, 31, 0), 27_500),
    (500, 100, 20, 15_907, 25, (53, 47, 0), 26_250),
    (500, 100, 50, 12_608, 10, (41, 41, 18), 25_500),
    (500, 100, 100, 10_847, 5, (35, 35, 30), 25_250),
    (500, 100, 200, 9_502, 2, (30, 31, 39), 25_100),
]
PRINTED = {
    10: "5000 3871 2997 2320 1796 1391 1077 834 645 500",
    50: "5000 3237 2096 1357 878 568 368 238 154 100",
    100: "5000 2997 1796 1077 645 387 232 139 83 50",
}


def one_pixel_set(counts_K: list[int]) -> ImageSet:
    labels_N = torch.repeat_interleave(torch.arange(len(counts_K)), torch.tensor(counts_K))
    store = TensorStore(torch.zeros((len(labels_N), 1, 1, 1), dtype=torch.uint8), [("made", len(labels_N))])
    return ImageSet(store, torch.arange(len(labels_N)), labels_N, tuple(map(str, range(len(counts_K)))))


@pytest.mark.parametrize(("n_max", "num_classes", "factor", "total", "smallest", "groups", "step_total"), TOTALS)
def test_published_totals(n_max, num_classes, factor, total, smallest, groups, step_total):
    counts = np.array(class_counts(n_max, num_classes, factor))
    assert counts.sum() == total
    assert (counts.max(), counts.min()) == (n_max, smallest)
    assert ((counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()) == groups
    assert sum(class_counts(n_max, num_classes, factor, "step")) == step_total


@pytest.mark.parametrize("factor", PRINTED)
def test_published_counts(factor):
    assert class_counts(5000, 10, factor) == [int(count) for count in PRINTED[factor].split()]


@pytest.mark.parametrize("row", TOTALS)
@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_a_set_of_cifar_size_is_thinned_to_the_published_counts(row, profile):
    n_max, num_classes, factor = row[:3]
    made = make_long_tailed(one_pixel_set([n_max] * num_classes), factor, profile)
    assert len(made) == (row[3] if profile == "exponential" else row[6])
    assert made.class_counts_K.tolist() == class_counts(n_max, num_classes, factor, profile)


def test_an_odd_number_of_classes_keeps_them_all_in_the_step_profile():
    assert class_counts(100, 5, 10, "step") == [100, 100, 10, 10, 10]


@pytest.mark.parametrize("n_max", range(2, 120))
def test_whole_counts_do_not_lose_an_image_to_rounding(n_max):
    # 49 * (1 / 49) is below 1 in floating point.
    assert class_counts(n_max, 2, n_max) == [n_max, 1]
    assert class_counts(3 * n_max, 2, n_max, "step") == [3 * n_max, 3]


def test_a_factor_below_one_is_explained():
    with pytest.raises(InputError, match=r"at least 1; got 0\.01\. 0\.01 means 100 here"):
        class_counts(500, 100, 0.01)
    with pytest.raises(InputError, match="1 leaves the classes balanced"):
        class_counts(500, 100, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((500, 10, 10, "exp"), "must be one of exponential, step"),
        ((500, 1, 10), "at least two classes"),
        ((500, 10, 501), "at least one image; got imbalance_factor 501.*at most 500"),
        ((500, 10, 501, "step"), "at least one image"),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        class_counts(*arguments)


@given(
    pools=st.lists(st.integers(1, 80), min_size=2, max_size=8),
    factor=st.floats(1, 40),
    profile=st.sampled_from(["exponential", "step"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_class_supplies_exactly_its_count(pools, factor, profile, seed):
    pool = one_pixel_set(pools)
    # The largest head that all pools can serve, by trying every one.
    heads = []
    for n_max in range(1, pools[0] + 1):
        try:
            counts = class_counts(n_max, len(pools), factor, profile)
        except InputError:
            continue
        if all(count <= available for count, available in zip(counts, pools, strict=True)):
            heads.append(counts)
    if not heads:
        with pytest.raises(InputError):
            make_long_tailed(pool, factor, profile, seed)
        return
    made = make_long_tailed(pool, factor, profile, seed)
    assert made.class_counts_K.tolist() == heads[-1]
    assert len(set(made.indices_N.tolist())) == len(made)
    assert torch.equal(made.labels_N, pool.labels_N[made.indices_N])
    assert torch.equal(made.indices_N, made.indices_N.sort().values)
    assert torch.equal(make_long_tailed(pool, factor, profile, seed).indices_N, made.indices_N)


def test_seeds_draw_different_images_and_larger_factors_keep_subsets():
    pool = one_pixel_set([60] * 5)
    ten = make_long_tailed(pool, 10, seed=1)
    assert not torch.equal(ten.indices_N, make_long_tailed(pool, 10, seed=2).indices_N)
    assert set(make_long_tailed(pool, 20, seed=1).indices_N.tolist()) < set(ten.indices_N.tolist())


def test_the_draw_is_the_same_in_every_version():
    drawn = make_long_tailed(one_pixel_set([500] * 10), 100, seed=0).indices_N.tolist()
    assert hashlib.sha256(",".join(map(str, drawn)).encode()).hexdigest()[:16] == "37b024e1b1c2fdd1"


def test_drawing_leaves_the_global_generators_alone():
    np_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    make_long_tailed(one_pixel_set([20] * 3), 5)
    assert (np.random.get_state()[1] == np_before).all()
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_imbalance_factor_ignores_empty_classes():
    assert imbalance_factor(torch.tensor([100, 0, 25, 4])) == 25


@pytest.mark.real_data
def test_the_published_counts_of_cifar(real_data):
    """Ten CIFAR-100 training images also stand in its test split; the head class is not among theirs."""
    stored = np.load(real_data / "longtail_counts.npz")
    parts = parse_dataset(f"cifar100:{real_data}").load(LoadRequest(size=8))
    for factor in (10, 50, 100, 200):
        made = make_long_tailed(parts.train, factor)
        assert made.class_counts_K.tolist() == stored[f"cifar100_lt_if{factor}_counts"].tolist()
        assert class_counts(5000, 10, factor) == stored[f"cifar10_lt_if{factor}_counts"].tolist()
