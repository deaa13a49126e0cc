"""The estimator: scikit-learn's own checks, and what it does with images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny_run import ASSIGNED, SPACE

import nasimb
import nasimb.classifier
from nasimb import NasimbClassifier
from nasimb.errors import DataError, InputError


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("space") / "tiny.yaml"
    file.write_text(SPACE)
    return str(file)


def digits(classes: int = 3, images: int = 90) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Flattened, [N, 64]."""
    values, labels = load_digits(n_class=classes, return_X_y=True)
    return np.uint8(values * 15.9)[:images], labels[:images]


@pytest.fixture
def tiny(space: str) -> NasimbClassifier:
    return NasimbClassifier(budget="2trials", space=space, device="cpu", assign=ASSIGNED)


# ------------------------------------------------------------------------------------- scikit-learn's checks, as it is

NO_IMAGES = "its data are no images: real numbers, and rows of 1 to 10 of them; refused before a search"
NOT_APPLICABLE = dict.fromkeys(
    (
        "check_fit_score_takes_y", "check_estimators_overwrite_params", "check_dont_overwrite_parameters",
        "check_estimators_fit_returns_self", "check_readonly_memmap_input", "check_n_features_in_after_fitting",
        "check_estimators_dtypes", "check_dtype_object", "check_pipeline_consistency", "check_estimators_nan_inf",
        "check_estimators_pickle", "check_f_contiguous_array_estimator", "check_classifier_data_not_an_array",
        "check_classifiers_classes", "check_classifiers_train", "check_supervised_y_2d",
        "check_methods_sample_order_invariance", "check_methods_subset_invariance", "check_dict_unchanged",
        "check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in", "check_fit2d_predict1d",
    ),
    NO_IMAGES,
)  # fmt: skip


@parametrize_with_checks(
    [NasimbClassifier(budget="1trials", device="cpu", assign=("training_steps=3",))],
    expected_failed_checks=lambda estimator: NOT_APPLICABLE,
)
def test_checks_of_scikit_learn(estimator: NasimbClassifier, check: Any) -> None:
    check(estimator)


# ------------------------------------------------------------------------ the same checks, on tables drawn as pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, space: str) -> None:
    """Tables of any numbers become square grey pictures, so that the checks above can fit; else nothing differs."""

    def side(features: int) -> int:
        return int(np.ceil(np.sqrt(features)))

    def picture(table_ND: NDArray[Any]) -> NDArray[np.uint8]:
        pixels = np.zeros((len(table_ND), side(table_ND.shape[1]) ** 2), np.uint8)
        pixels[:, : table_ND.shape[1]] = np.clip(128 + 25 * table_ND.astype(float), 0, 255)
        return pixels

    search = nasimb.classifier.search
    monkeypatch.setattr(nasimb.classifier, "_square", lambda features: (side(features), side(features), 1))
    monkeypatch.setattr(nasimb.classifier, "_whole", picture)
    monkeypatch.setattr(nasimb.classifier, "check_non_negative", lambda *_: None)
    monkeypatch.setattr(nasimb.classifier, "search", lambda **options: search(**{**options, "space": space}))


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
@parametrize_with_checks(
    [NasimbClassifier(budget="1trials", device="cpu", assign=ASSIGNED)],
    expected_failed_checks=lambda estimator: {
        "check_positive_only_tag_during_fit": "drawn, negative numbers are pixels too; it passes above",
    },
)
def test_checks_of_scikit_learn_that_fit(estimator: NasimbClassifier, check: Any) -> None:
    check(estimator)


# ------------------------------------------------------------------------------------------------------------- images


def test_digits_in_five_lines(tiny: NasimbClassifier) -> None:
    X, y = digits()
    fitted = tiny.fit(X[:70], y[:70])
    assert fitted is tiny
    assert fitted.score(X[70:], y[70:]) > 0.7  # a third by chance
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert (fitted.n_features_in_, fitted.image_shape_) == (64, (8, 8, 1))
    assert fitted.result_["trials"]["finished"] >= 2
    assert fitted.report_["models"].query("model == 'winner'")["balanced_accuracy"].item() == pytest.approx(
        fitted.result_["winner"]["test"]["balanced_accuracy"]
    )
    probabilities = fitted.predict_proba(X[70:])
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(1)], fitted.predict(X[70:]))


def test_flattened_grey_and_coloured_images_are_one(tiny: NasimbClassifier) -> None:
    X, y = digits()
    flat, grey = clone(tiny).fit(X, y), clone(tiny).fit(X.reshape(-1, 8, 8), y)
    np.testing.assert_array_equal(flat.predict_proba(X), grey.predict_proba(X.reshape(-1, 8, 8, 1)))
    coloured = clone(tiny).fit(np.repeat(X.reshape(-1, 8, 8, 1), 3, axis=3), y)
    assert (coloured.image_shape_, coloured.n_features_in_) == ((8, 8, 3), 192)
    assert coloured.model_.description.channels == 3
    with pytest.raises(ValueError, match="64 features, but NasimbClassifier is expecting 192"):
        coloured.predict(X)


def test_labels_are_given_back_as_they_came(tiny: NasimbClassifier) -> None:
    X, y = digits()
    names = np.array(["zero", "one", "<b>two"], dtype=object)
    named = tiny.fit(X, names[y])
    assert named.classes_.tolist() == ["<b>two", "one", "zero"]
    assert set(named.predict(X)) <= set(names)
    assert named.score(X, names[y]) > 0.7


def test_a_seed_repeats_and_a_random_state_is_drawn_from(tiny: NasimbClassifier) -> None:
    X, y = digits()
    first, again = clone(tiny).set_params(random_state=3).fit(X, y), clone(tiny).set_params(random_state=3).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    drawn = clone(tiny).set_params(random_state=np.random.RandomState(5)).fit(X, y)
    assert drawn.result_["provenance"]["seed"] == np.random.RandomState(5).randint(2**31 - 1)


def test_a_pickle_holds_the_files_of_the_model(tiny: NasimbClassifier) -> None:
    X, y = digits()
    fitted = tiny.fit(X, y)
    assert set(fitted.__getstate__()["model_"]) == {"model.json", "model.safetensors"}
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.predict_proba(X), fitted.predict_proba(X))
    assert back.model_.description == fitted.model_.description
    assert pickle.loads(pickle.dumps(clone(fitted))).get_params() == fitted.get_params()


def test_a_run_folder_is_kept_and_gone_on_with(
    tiny: NasimbClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = digits()
    kept = tiny.set_params(run=tmp_path / "kept").fit(X, y)
    assert nasimb.load(tmp_path / "kept" / "run" / "best").classes == ("0", "1", "2")
    monkeypatch.setattr("nasimb.pipeline._find", lambda *_: pytest.fail("a finished run is read"))
    assert clone(kept).fit(X, y).result_ == kept.result_


def test_a_run_folder_is_of_one_data_set(tiny: NasimbClassifier, tmp_path: Path) -> None:
    X, y = digits()
    data = tmp_path / "kept" / "data.npz"
    fitted = tiny.set_params(run=tmp_path / "kept").fit(X, y)
    before, written = data.read_bytes(), data.stat().st_mtime_ns
    other_images = X.copy()
    other_images[0, 0] ^= 1
    for images, labels in ((X, y[::-1]), (other_images, y), (X[:80], y[:80]), (X, np.array(["a", "b", "c"])[y])):
        with pytest.raises(InputError, match="a run folder of its own"):
            clone(fitted).fit(images, labels)
        assert data.read_bytes() == before
    assert clone(fitted).fit(X, y).result_ == fitted.result_
    assert data.stat().st_mtime_ns == written, "the same data are not written again"
    data.write_bytes(before[:100])
    with pytest.raises(InputError, match="a run folder of its own"):
        clone(fitted).fit(X, y)


def test_folds_do_not_share_a_run(tiny: NasimbClassifier, tmp_path: Path) -> None:
    X, y = digits()
    with pytest.warns(FitFailedWarning, match="1 fits failed"):
        scores = cross_val_score(tiny.set_params(run=tmp_path / "kept"), X, y, cv=2)
    assert np.isnan(scores).tolist() == [False, True], "the second is not tested on what the first was fitted to"


@pytest.mark.parametrize(
    ("X", "told"),
    [
        (np.zeros((20, 4, 4)), "got float64"),
        (np.full((20, 4, 4), 256), "values up to 256"),
        (np.full((20, 4, 4), -1), "Negative values in data"),
        (np.zeros((20, 12), np.uint8), "got 12 pixels"),
    ],
)
def test_what_is_no_image_is_refused(tiny: NasimbClassifier, X: NDArray[Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tiny.fit(X, np.arange(20) % 2)


def test_images_all_alike_are_refused(tiny: NasimbClassifier) -> None:
    with pytest.raises(DataError, match="Give more images that differ"):
        tiny.fit(np.zeros((30, 8, 8), np.uint8), [0, 1] * 15)


def test_labels_that_read_alike_are_refused(tiny: NasimbClassifier) -> None:
    class Label(str):
        def __str__(self) -> str:
            return "same"

    X, y = digits(classes=2)
    with pytest.raises(InputError, match="must differ as text"):
        tiny.fit(X, np.array([Label("a"), Label("b")], dtype=object)[y])
