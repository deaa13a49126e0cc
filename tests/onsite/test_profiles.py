"""The profile of a run's own training images: made once, kept beside the model, made anew when the model changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nasimb.adapt import ClassProfile, class_profile
from nasimb.assemble import load_ground
from nasimb.config import RunConfig
from nasimb.errors import InputError
from nasimb.export import load, save
from nasimb.onsite.profiles import ABOUT, PROFILE, images_of_run, known_training
from nasimb.rundir import RunDir
from nasimb.spec import parse

CPU = torch.device("cpu")


def same(one: ClassProfile, other: ClassProfile) -> bool:
    tensors = [(one.shares_K, other.shares_K), (one.predicted_K, other.predicted_K)]
    for name, layer in one.layers.items():
        tensors += [(value, getattr(other.layers[name], key)) for key, value in vars(layer).items()]
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in tensors)


def test_it_is_of_the_target_of_the_run_and_kept(run: Path) -> None:
    model = load(run / "best")
    made = known_training(run / "best", model, None, device=CPU)
    task = load_ground(parse(RunConfig, RunDir(run).config(), what="it"), CPU).task
    pixels = torch.cat([batch for batch, _ in task.target.batches(64, CPU)])
    by_hand = class_profile(model, pixels, task.target.labels_N)
    assert made.profile is not None
    assert same(made.profile, by_hand)
    assert made.images == len(task.target) == sum(model.description.class_counts_K)
    kept = known_training(run / "best", model, None, device=CPU)
    assert kept.profile is not None
    assert same(kept.profile, made.profile)
    assert f"a profile of {made.images} training images (target), kept" in kept.note


def test_what_is_asked_for_serves_this_time_and_replaces_nothing_of_other_data(run: Path) -> None:
    best = run / "best"
    model = load(best)
    made = known_training(best, model, None, device=CPU)
    before = (best / PROFILE).read_bytes()
    source = known_training(best, model, "source", device=CPU)
    assert source.images == len(load_ground(parse(RunConfig, RunDir(run).config(), what="it"), CPU).task.source)
    assert "for this time" in source.note
    assert f"kept in {best / PROFILE} (target) stays" in source.note
    assert (best / PROFILE).read_bytes() == before
    assert known_training(best, model, None, device=CPU).images == made.images
    assert known_training(best, model, "target", device=CPU).note.endswith(f"kept in {best / PROFILE}.")
    (best / PROFILE).unlink()
    assert known_training(best, model, "source", device=CPU).note.endswith(f"kept in {best / PROFILE}.")
    assert known_training(best, model, None, device=CPU).images == source.images


@pytest.mark.parametrize("damage", ["profile", "about", "model"])
def test_what_does_not_fit_the_model_is_made_again(run: Path, damage: str) -> None:
    best = run / "best"
    before = known_training(best, load(best), None, device=CPU).profile
    assert before is not None
    if damage == "profile":
        data = bytearray((best / PROFILE).read_bytes())
        data[-1] ^= 1
        (best / PROFILE).write_bytes(data)
    elif damage == "about":
        (best / ABOUT).write_text(json.dumps({"images": 3}))
    else:
        changed = load(best)
        changed.head.load_state_dict({name: -value for name, value in changed.head.state_dict().items()})
        save(changed, best)
    again = known_training(best, load(best), None, device=CPU)
    assert again.note.startswith("Made a profile")
    assert again.profile is not None
    assert same(again.profile, before) == (damage != "model")


def test_a_copied_model_says_what_it_lacks_and_takes_other_images(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(run / "best", copy)
    model = load(copy)
    found = known_training(copy, model, None, device=CPU)
    assert found.profile is None
    assert "a model must lie in its run" in found.note
    assert "cautious guesses" in found.note
    with pytest.raises(InputError, match="RUN/best"):
        known_training(copy, model, "target", device=CPU)
    named = known_training(copy, model, "digits:3-9", device=CPU)
    assert named.images == 2 * 60  # of the classes that the model knows, all training images
    assert (copy / PROFILE).is_file()
    assert known_training(copy, model, "none", device=CPU).profile is None
    with pytest.raises(InputError, match="of the classes of the model"):
        known_training(copy, model, "digits:5-9", device=CPU)


def test_a_run_whose_data_changed_goes_on_without(run: Path) -> None:
    splits = json.loads((run / "splits.json").read_text())
    splits["fingerprints"]["target"] = "0" * 16
    RunDir(run).write_json("splits.json", splits)
    found = known_training(run / "best", load(run / "best"), None, device=CPU)
    assert found.profile is None
    assert "another target" in found.note


def test_a_retrained_model_has_the_images_of_its_run(run: Path, tmp_path: Path) -> None:
    """And a run has its own, whatever the folder is called that it lies in; a model elsewhere has none."""
    target = images_of_run(run / "best", "target", CPU).fingerprint()
    config = RunDir(run).config()
    for place in (run / "retrained" / "one", tmp_path / "elsewhere"):
        place.mkdir(parents=True)
        shutil.copytree(run / "best", place / "best")
        RunDir(place).write_config({"trial": None, "seed": 0})  # as `nasimb retrain` names its folder's options
    assert images_of_run(run / "retrained" / "one" / "best", "target", CPU).fingerprint() == target
    for stranger in (tmp_path / "elsewhere" / "best", run / "retrained" / "one"):
        with pytest.raises(InputError, match="must lie in its run"):
            images_of_run(stranger, "target", CPU)
    moved = tmp_path / "retrained" / "run"
    moved.parent.mkdir()
    shutil.move(run, moved)
    assert RunDir(moved).config() == config
    assert images_of_run(moved / "best", "target", CPU).fingerprint() == target
