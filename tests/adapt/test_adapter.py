"""An adapter on made streams: what it gains, where it refuses, and that nothing else ever changes."""

from __future__ import annotations

import copy
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from adapt.made_net import CLASSES, Made, accuracy, corrupted, drawn_images, noisy
from nasimb.adapt import BatchNormAdapter, Entry, Reason, Safety, class_profile
from nasimb.adapt.strategies import STRATEGIES
from nasimb.errors import InputError

NOISE = 0.01
"""Of an accuracy over the 2,000 images of a stream."""


def logits_of(model: Callable[[Tensor], Tensor], images_NCHW: Tensor, batch: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in images_NCHW.split(batch)])


def reasons(log: tuple[Entry, ...]) -> Counter[Reason]:
    return Counter(entry.reason for entry in log)


def adapter_of(made: Made, strategy: str = "mixed", **safety: float) -> BatchNormAdapter:
    return BatchNormAdapter(made.model, strategy, profile=made.profile, safety=Safety(**safety))


def short(made: Made, images: int = 256) -> Tensor:
    return noisy(made.images_NCHW[:images])


# What it never changes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_never_touched(made: Made, training: bool) -> None:
    model = made.model.train(training)
    try:
        state = {name: one.clone() for name, one in model.state_dict().items()}
        adapter = BatchNormAdapter(model, profile=made.profile)
        images = short(made)
        logits = logits_of(adapter, images, 32)
        adapter.adapted_model()
        assert any(entry.adapted for entry in adapter.log)
        assert all(module.training is training for module in model.modules())
        assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(one.requires_grad and one.grad is None for one in model.parameters())
        assert not logits.requires_grad
    finally:
        model.eval()
    assert torch.equal(logits, logits_of(BatchNormAdapter(model, profile=made.profile), images, 32))


@pytest.mark.parametrize("safety", [None, Safety()])
def test_source_is_the_model_bit_by_bit(made: Made, safety: Safety | None) -> None:
    adapter = BatchNormAdapter(made.model, "source", safety=safety)
    assert torch.equal(logits_of(adapter, short(made), 32), logits_of(made.model, short(made), 32))
    assert reasons(adapter.log) == {Reason.NEVER: 8}


def test_batch_without_safety_is_batch_norm_in_training(made: Made) -> None:
    adapter = BatchNormAdapter(made.model, "batch", safety=None)
    found = logits_of(adapter, short(made), 32)
    for module in made.model.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
        if module.training:
            module.track_running_stats = False
    try:
        expected = logits_of(made.model, short(made), 32)
    finally:
        for module in made.model.eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = True
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert reasons(adapter.log) == {Reason.UNWATCHED: 8}
    assert all(entry.adapted and entry.weight == 1 for entry in adapter.log)


# What it gains, and where it must not lose ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [8, 64, 300])
def test_a_corrupted_stream_gains_nearly_what_its_own_statistics_would(made: Made, batch: int) -> None:
    images, labels = noisy(made.images_NCHW[:2048]), made.labels_N[:2048]
    source = accuracy(logits_of(made.model, images, 512), labels)
    known = accuracy(BatchNormAdapter(made.model, "batch", safety=None)(images), labels)
    adapter = adapter_of(made)
    found = accuracy(logits_of(adapter, images, batch), labels)
    assert known > source + 0.2
    assert found > known - 0.03
    assert sum(entry.adapted for entry in adapter.log) > 0.9 * len(adapter.log)


def test_a_clean_stream_stays_at_the_source_because_its_classes_explain_it(made: Made) -> None:
    adapter, images = adapter_of(made), made.images_NCHW[:2048]
    assert torch.equal(logits_of(adapter, images, 64), logits_of(made.model, images, 64))
    assert set(reasons(adapter.log)) == {Reason.EXPLAINED, Reason.RESTING}


def in_order(labels_N: Tensor, kind: str, head: int = 0) -> Tensor:
    """Positions of the images of a stream."""
    rng = torch.Generator().manual_seed(0)
    of_class = [(labels_N == k).nonzero()[:, 0] for k in range(CLASSES)]
    if kind == "sorted":
        return torch.cat([one[:500] for one in of_class])
    if kind == "runs":
        runs = [one.split(25)[:20] for one in of_class]
        mixed = list(itertools.chain.from_iterable(zip(*runs, strict=True)))
        return torch.cat([mixed[i] for i in torch.randperm(len(mixed), generator=rng)])
    tail = torch.cat([of_class[(head + k) % CLASSES][: 1000 // 2**k] for k in range(CLASSES)])
    return tail[torch.randperm(len(tail), generator=rng)]


CORRUPTIONS = pytest.mark.parametrize(
    "corrupt", [lambda images: images, corrupted, noisy], ids=["clean", "contrast", "noise"]
)


@CORRUPTIONS
@pytest.mark.parametrize("kind", ["sorted", "runs"])
@pytest.mark.parametrize("batch", [16, 64])
def test_a_stream_whose_classes_mislead_is_not_worse_than_the_source(
    made: Made, kind: str, corrupt: Callable[[Tensor], Tensor], batch: int
) -> None:
    order = in_order(made.labels_N, kind)
    images, labels = corrupt(made.images_NCHW)[order], made.labels_N[order]
    source = accuracy(logits_of(made.model, images, 512), labels)
    found = accuracy(logits_of(adapter_of(made), images, batch), labels)
    assert found > source - NOISE
    if kind == "sorted":  # following it would cost much
        followed = logits_of(BatchNormAdapter(made.model, "batch", safety=None), images, batch)
        assert accuracy(followed, labels) < source - 0.2


@CORRUPTIONS
def test_a_long_tailed_stream_is_not_worse_than_the_source_whichever_class_is_frequent(
    made: Made, corrupt: Callable[[Tensor], Tensor]
) -> None:
    """On average over the frequent class: where it is the one that the source's errors favour, the source gains."""
    changes = []
    for head in range(CLASSES):
        order = in_order(made.labels_N, "long tail", head)
        images, labels = corrupt(made.images_NCHW)[order], made.labels_N[order]
        source, found = logits_of(made.model, images, 512), logits_of(adapter_of(made), images, 64)
        changes.append(accuracy(found, labels) - accuracy(source, labels))
    assert sum(changes) / CLASSES > -NOISE / 2
    assert min(changes) > -0.05


def test_single_images_add_up_to_a_window(made: Made) -> None:
    images, labels = noisy(made.images_NCHW[:400]), made.labels_N[:400]
    adapter = adapter_of(made)
    found = logits_of(adapter, images, 1)
    adapted = [entry.adapted for entry in adapter.log]
    assert not any(adapted[:31])
    assert all(adapted[300:])
    assert accuracy(found[300:], labels[300:]) > accuracy(logits_of(made.model, images[300:], 100), labels[300:]) + 0.15


@pytest.mark.parametrize("batch", [2, 4])
def test_looks_at_a_steady_stream_in_small_batches_do_not_find_a_change(made: Made, batch: int) -> None:
    adapter = adapter_of(made, look=128)
    logits_of(adapter, corrupted(made.images_NCHW[:512]), batch)
    assert reasons(adapter.log)[Reason.CHANGED] == 0
    assert sum(entry.adapted for entry in adapter.log) > 0.75 * len(adapter.log)


@pytest.mark.parametrize(("batch", "look", "reason"), [(32, 256, Reason.CHANGED), (64, 64, Reason.CHANGED)])
def test_a_stream_that_changes_begins_anew_and_recovers(made: Made, batch: int, look: int, reason: Reason) -> None:
    """Seen by the order of its predictions, or by the images themselves where a look comes first."""
    adapter = adapter_of(made, look=look)
    logits_of(adapter, corrupted(made.images_NCHW[:512]), batch)
    assert adapter.log[-1].adapted
    other, labels = noisy(made.images_NCHW[1024:2560]), made.labels_N[1024:2560]
    found = logits_of(adapter, other, batch)
    assert reason in reasons(adapter.log[512 // batch :])
    assert adapter.log[-1].adapted
    own = BatchNormAdapter(made.model, "batch", safety=None)(other[768:])
    assert accuracy(found[768:], labels[768:]) > accuracy(own, labels[768:]) - 0.03


def test_a_look_at_a_steady_stream_takes_few_images_of_a_large_batch(made: Made) -> None:
    adapter, images = adapter_of(made, look=256), noisy(made.images_NCHW)
    passed: list[int] = []
    first = adapter._passes.model.blocks[0][0]
    first.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    for batch_BCHW in images.split(200):
        passed.clear()
        found, newest = adapter(batch_BCHW), adapter.newest
        assert newest is not None
        if newest.batch > 3 and newest.evidence.unexplained is not None:
            break
    assert sum(passed) == 200 + 64
    assert newest.adapted
    assert newest is adapter.log[-1]
    with torch.no_grad():
        of_source = made.model(batch_BCHW)
    drawn = torch.randperm(200, generator=torch.Generator().manual_seed(newest.batch + 1))[:64]
    flipped_B = found.argmax(1) != of_source.argmax(1)
    assert newest.evidence.flips == pytest.approx(float(flipped_B[drawn].float().mean()))


@pytest.mark.parametrize("strategy", ["ema:0.1", "mixed"])
@pytest.mark.parametrize("batch", [128, 256])
def test_classes_that_take_turns_are_all_seen_by_a_look(made: Made, strategy: str, batch: int) -> None:
    """A look at every second or fourth image would see two classes or one."""
    labels = torch.arange(4096) % CLASSES
    images = noisy(drawn_images(labels, seed=5))
    adapter = adapter_of(made, strategy, look=128)
    found = logits_of(adapter, images, batch)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    shuffled = logits_of(adapter_of(made, strategy, look=128), images[order], batch)
    assert reasons(adapter.log)[Reason.CHANGED] == 0
    assert accuracy(found, labels) > accuracy(shuffled, labels[order]) - 2 * NOISE


def test_images_that_carry_gradients_leave_no_graph_behind(made: Made) -> None:
    adapter = adapter_of(made)
    for part in short(made).split(64):
        adapter(part.requires_grad_())
    assert adapter.state.pixels is not None
    assert not adapter.state.pixels.moments.mean_C.requires_grad
    assert adapter.state.newest_pixels is None or not adapter.state.newest_pixels.moments.mean_C.requires_grad


def test_a_small_window_is_judged_before_it_is_gone(made: Made) -> None:
    adapter = adapter_of(made, window=64, look=10**6)
    logits_of(adapter, noisy(made.images_NCHW[:1600]), 32)
    steady = [entry.reason is Reason.STEADY for entry in adapter.log[24:]]
    assert sum(steady) == pytest.approx(len(steady) / 2, abs=1)


def test_no_images_have_no_newest_entry(made: Made) -> None:
    assert adapter_of(made).newest is None


def test_a_slow_drift_is_noticed_though_no_batch_differs_much_from_those_before(made: Made) -> None:
    adapter, images = adapter_of(made, look=10**6), made.images_NCHW[:2000].repeat(4, 1, 1, 1)
    images = images + 1e-4 * torch.arange(len(images))[:, None, None, None] / 4
    logits_of(adapter, images, 64)
    assert reasons(adapter.log)[Reason.CHANGED] > 0


def test_copies_are_not_trusted_for_more_than_one(made: Made) -> None:
    adapter = BatchNormAdapter(made.model, safety=None)
    images = short(made, 16)
    adapter(images)
    once = adapter.state
    adapter(images.repeat(4, 1, 1, 1)[torch.randperm(64)])
    assert adapter.state.known == once.known
    assert adapter.state.measured == once.measured == 16
    adapter(torch.cat([images, short(made, 20)]))
    assert adapter.state.measured == 20


def test_images_that_come_again_after_a_new_beginning_are_learned_from_again(made: Made) -> None:
    adapter = adapter_of(made, look=64)
    images, labels = noisy(made.images_NCHW[:512]), made.labels_N[:512]
    logits_of(adapter, images, 64)
    logits_of(adapter, corrupted(made.images_NCHW[:512]), 64)
    assert not all(entry.adapted for entry in adapter.log[8:])
    for _ in range(2):
        again = logits_of(adapter, images, 64)
    assert adapter.log[-1].adapted
    assert accuracy(again, labels) > accuracy(logits_of(made.model, images, 512), labels) + 0.2


# What is wrong -------------------------------------------------------------------------------------------------------

NAN = torch.zeros(4, 3, 16, 16).index_fill_(0, torch.tensor([2]), torch.nan)
WRONG = [
    (NAN, r"pixels must be finite; got NaN or infinite ones in image 2 of the batch\. Leave"),
    (torch.zeros(0, 3, 16, 16), "a batch must have an image; got none"),
    (torch.zeros(4, 1, 16, 16), r"must take the images; got torch.float32 \[4, 1, 16, 16\]: .*channels"),
    (torch.zeros(4, 3, 16, 16).double(), r"must take the images; got torch.float64 \[4, 3, 16, 16\]"),
    (torch.zeros(16), r"images must be a tensor \[B, C, H, W\]; got Tensor \[16\]"),
    (torch.zeros(4, 3, 16, 16).numpy(), r"images must be a tensor \[B, C, H, W\]; got ndarray \[4, 3, 16, 16\]"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
@pytest.mark.parametrize("strategy", ["mixed", "batch"])
def test_what_is_wrong_is_refused_and_leaves_no_trace(made: Made, wrong: Tensor, message: str, strategy: str) -> None:
    told, spared = adapter_of(made, strategy), adapter_of(made, strategy)
    parts = short(made, 160).split(32)
    for part in parts:
        with pytest.raises(InputError, match=message):
            told(wrong)
        before = told.state
        with pytest.raises(InputError):
            told(wrong)
        assert told.state is before
        assert torch.equal(told(part), spared(part))
    assert told.log == spared.log


def test_a_model_that_fails_in_the_middle_leaves_no_trace(made: Made) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = made.model

        def forward(self, x: Tensor) -> Tensor:
            logits = self.inner(x)
            if len(x) == 7:
                raise RuntimeError("seven")
            return logits

    told, spared = (BatchNormAdapter(Fragile().eval(), safety=None) for _ in range(2))
    for part in short(made, 160).split(32):
        with pytest.raises(InputError, match="seven"):
            told(part[:7] + 1)
        assert torch.equal(told(part), spared(part))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions_are_described_and_adapted_and_the_source_is_exact(
    made: Made, dtype: torch.dtype
) -> None:
    model = copy.deepcopy(made.model).to(dtype)
    model.blocks[0][1].running_mean.add_(1e-9)  # more than float32 can tell
    images, labels = noisy(made.images_NCHW[:1024]).to(dtype), made.labels_N[:1024]
    profile = class_profile(model, made.images_NCHW[1024:1536].to(dtype), made.labels_N[1024:1536])
    adapter = BatchNormAdapter(model, profile=profile)
    found = logits_of(adapter, images, 64)
    assert found.dtype is dtype
    assert accuracy(found, labels) > accuracy(logits_of(model, images, 512), labels) + 0.2
    adapter.reset()
    assert torch.equal(adapter.adapted_model()(images), logits_of(model, images, 1024))
    assert torch.equal(BatchNormAdapter(model, "source")(images), logits_of(model, images, 1024))


def test_under_autocast_it_adapts_as_without(made: Made) -> None:
    images, labels = noisy(made.images_NCHW[:1024]), made.labels_N[:1024]
    expected = accuracy(logits_of(adapter_of(made), images, 64), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits_of(adapter_of(made), images, 64)
    assert accuracy(found, labels) == pytest.approx(expected, abs=0.01)


def test_a_model_of_one_logit_cannot_be_watched() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    images = torch.zeros(4, 3, 2, 2)
    with pytest.raises(InputError, match=r"2 classes at least to be watched; got 1 logit an image\. Give both"):
        BatchNormAdapter(model)(images)
    assert BatchNormAdapter(model, safety=None)(images).shape == (4, 1)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_runs_watched_and_is_the_same_twice(made: Made, name: str) -> None:
    adapter = adapter_of(made, name)
    first = logits_of(adapter, short(made), 32)
    log = adapter.log
    adapter.reset()
    assert adapter.log == ()
    assert adapter.state.known == {}
    assert torch.equal(logits_of(adapter, short(made), 32), first)
    assert adapter.log == log
    assert torch.equal(logits_of(adapter_of(made, name), short(made), 32), first)


def test_without_a_profile_it_is_cautious_and_works(made: Made) -> None:
    adapter = BatchNormAdapter(made.model)
    images, labels = noisy(made.images_NCHW[:2048]), made.labels_N[:2048]
    assert (
        accuracy(logits_of(adapter, images, 64), labels) > accuracy(logits_of(made.model, images, 512), labels) + 0.15
    )
    order = in_order(made.labels_N, "sorted")
    of_sorted = logits_of(BatchNormAdapter(made.model), made.images_NCHW[order], 64)
    source = accuracy(logits_of(made.model, made.images_NCHW[order], 512), made.labels_N[order])
    assert accuracy(of_sorted, made.labels_N[order]) > source - NOISE


# Back ----------------------------------------------------------------------------------------------------------------


def test_rollback_without_a_healthy_state_is_the_source(made: Made) -> None:
    adapter = adapter_of(made)
    adapter(short(made, 8))
    adapter.rollback()
    assert not adapter.state.adapting
    assert adapter.state.moments == {}
    assert torch.equal(adapter.adapted_model()(short(made, 8)), logits_of(made.model, short(made, 8), 8))


def test_rollback_puts_back_the_state_of_the_last_look(made: Made) -> None:
    adapter = adapter_of(made)
    logits_of(adapter, short(made, 64), 32)
    healthy = adapter.state
    assert healthy.good is not None
    logits_of(adapter, noisy(made.images_NCHW[100:420], seed=1), 32)
    assert adapter.state.moments is not healthy.good.moments
    adapter.rollback()
    assert adapter.state.moments is healthy.good.moments
    assert adapter.state.adapting
    assert adapter.state.batches == 12


def test_predictions_that_collapse_put_the_last_healthy_state_back(made: Made) -> None:
    adapter = adapter_of(made)
    logits_of(adapter, short(made, 96), 32)
    good = adapter.state.good
    assert good is not None
    # As if predictions had been far more even when adaptation began.
    adapter._state = replace(adapter.state, begun_entropy=10.0)
    part = noisy(made.images_NCHW[500:532])
    found = adapter(part)
    entry = adapter.log[-1]
    assert entry.reason is Reason.COLLAPSE
    assert entry.rolled_back
    assert not entry.adapted
    assert torch.equal(found, logits_of(made.model, part, 32))
    assert adapter.state.moments is good.moments
    adapter(noisy(made.images_NCHW[532:564]))
    assert adapter.log[-1].adapted


@pytest.mark.parametrize("value", [0.0, 0.5, 50.0])
def test_images_that_are_all_alike_are_not_adapted_to_for_long_and_it_recovers(made: Made, value: float) -> None:
    adapter = adapter_of(made)
    logits_of(adapter, short(made, 128), 32)
    plain = value + 0.01 * torch.randn(512, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = logits_of(adapter, plain, 32)
    assert torch.isfinite(found).all()
    assert not all(entry.adapted for entry in adapter.log[4:])
    images, labels = noisy(made.images_NCHW[256:2560]), made.labels_N[256:2560]
    again = logits_of(adapter, images, 32)[-512:]
    assert accuracy(again, labels[-512:]) > accuracy(logits_of(made.model, images, 512)[-512:], labels[-512:]) + 0.15


# Beside others -------------------------------------------------------------------------------------------------------


def test_threads_may_call_and_read_at_once(made: Made) -> None:
    adapter = adapter_of(made)
    failures: list[BaseException] = []
    done = threading.Event()

    def calls(number: int) -> None:
        for part in drawn_images(torch.arange(64) % CLASSES, seed=number).split(4):
            assert adapter(part).shape == (4, CLASSES)

    def reads() -> None:
        while not done.is_set():
            state, log = adapter.state, adapter.log
            assert set(state.moments) <= set(adapter.layers)
            assert [entry.batch for entry in log] == list(range(len(log)))
            adapter.adapted_model()

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=guarded, args=(reads,)) for _ in range(2)]
    callers = [threading.Thread(target=guarded, args=(lambda number=number: calls(number),)) for number in range(4)]
    for thread in (*readers, *callers):
        thread.start()
    for thread in callers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert len(adapter.log) == adapter.state.batches == 64


def test_the_adapted_model_is_plain_gives_the_same_and_can_be_exported(made: Made) -> None:
    adapter = adapter_of(made)
    logits_of(adapter, short(made, 1024), 64)
    before = adapter.adapted_model()
    part = noisy(made.images_NCHW[2000:2064])
    settled = adapter.state
    assert adapter.log[-1].adapted
    found = adapter(part)
    assert adapter.state.moments == settled.moments  # it was not the turn of this batch
    assert torch.equal(before(part), found)
    assert isinstance(before, type(made.model))
    assert not any(module._forward_hooks or module._forward_pre_hooks or module.training for module in before.modules())
    assert not torch.equal(before.state_dict()["blocks.0.1.running_var"], made.model.blocks[0][1].running_var)
    exported = torch.export.export(before, (part,)).module()
    torch.testing.assert_close(exported(part), found)


def test_the_adapted_model_of_a_refused_stream_is_the_source(made: Made) -> None:
    adapter, part = adapter_of(made), made.images_NCHW[:64]
    adapter(part)
    assert adapter.log[-1].reason is Reason.EXPLAINED
    assert torch.equal(adapter.adapted_model()(part), logits_of(made.model, part, 64))


def test_a_model_without_running_statistics_is_adapted_but_not_handed_out() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.LazyLinear(3)).eval()
        images = torch.randn(64, 3, 8, 8)
        model(images)
    profile = class_profile(model, images, torch.arange(64) % 3)
    adapter = BatchNormAdapter(model, profile=profile, safety=None)
    shifted = images * 0.5 + 1
    assert not torch.allclose(adapter(shifted), logits_of(model, shifted, 64))
    with pytest.raises(InputError, match=r"only batch norms keep what they adapted to.*Use the adapter itself"):
        adapter.adapted_model()


def test_the_log_and_the_memory_have_an_end(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasimb.adapt.adapter.LOG", 20)
    adapter = adapter_of(made, window=64)
    logits_of(adapter, short(made), 4)
    assert len(adapter.log) == 20
    assert adapter.log[-1].batch == 63
    predictions_NK = adapter.state.predictions_NK
    assert predictions_NK is not None
    assert len(predictions_NK) == 64
    assert adapter.state.good is None or adapter.state.good.good is None
