"""A search in scikit-learn's manner: `NasimbClassifier(budget="3min").fit(X, y).predict(X)`.

Shapes: N images of H x W pixels with C channels, K classes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from nasimb.api import search
from nasimb.data.arrays import DAMAGE
from nasimb.durable import replacing
from nasimb.errors import InputError
from nasimb.export import Model, load, save

__all__ = ["NasimbClassifier"]

SMALL_PIXELS = 12
"""Images up to this side are searched in the space of the digits, larger ones in that of CIFAR."""


class NasimbClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The best network that a budget finds for imbalanced images.

    X is uint8 (or other whole numbers in 0..255): images [N, H, W] or [N, H, W, C] with C of 1 or 3, or square grey
    images flattened to [N, H*W]. Every class needs a few images: a fifth of them is held out for the test in `result_`,
    and as much ranks the candidates.

    Args:
        budget: "3min", "8gpu-h", "200trials".
        space: of networks, by name or path; None goes by the size of the images.
        objective: "balanced_accuracy", "few", "worst_recall", "macro_f1", "accuracy" and the like.
        device: "auto", "cpu", "cuda".
        run: folder of the run, which is kept, and resumed by the same `fit`; other data need another folder, and so
            does every fold of a cross-validation. None keeps none.
        assign: any other option of the search, as for `nasimb search --set`: ("training_steps=50",).
        random_state: a seed; or a RandomState or None, which draw one.

    Attributes:
        classes_: the labels [K], sorted.
        model_: the winner.
        result_: what result.json of the run says.
        report_: tables by name, as `nasimb.api.Found.report`.
        image_shape_: (H, W, C) of the images.
        n_features_in_: H*W*C.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> import numpy as np
        >>> X, y = load_digits(n_class=2, return_X_y=True)
        >>> X = np.uint8(X * 15.9)
        >>> quick = ("training_steps=3", "heads.penalties=[0.01]")
        >>> classifier = NasimbClassifier(budget="2trials", assign=quick).fit(X, y)
        >>> classifier.predict(X[:4])
        array([0, 1, 0, 1])
        >>> classifier.predict_proba(X[:4]).shape
        (4, 2)
    """

    def __init__(
        self,
        budget: str = "3min",
        *,
        space: str | Path | None = None,
        objective: str = "balanced_accuracy",
        device: str = "auto",
        run: str | Path | None = None,
        assign: Sequence[str] = (),
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.budget, self.space, self.objective, self.device = budget, space, objective, device
        self.run, self.assign, self.random_state = run, assign, random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Search; y are N labels: integers, strings, or anything that sorts.

        Raises:
            InputError: X are no such images, there is one class only, `run` holds a fit to other data, or the search
                refuses an option.
        """
        images_NHWC, y = self._images(X, y, fitting=True)
        classes_K, labels_N = np.unique(y, return_inverse=True)
        names = [str(label) for label in classes_K.tolist()]
        if len(set(names)) < len(names):
            raise InputError("labels must differ as text", got=names, do="Rename those that read alike.")
        if isinstance(self.random_state, int | np.integer):
            seed = int(self.random_state)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch if self.run is None else self.run)
            arrays: dict[str, NDArray[Any]] = {
                "train_images": images_NHWC,
                "train_labels": labels_N,
                "class_names": np.array(names),
            }
            found = search(
                data=_kept(arrays, folder), budget=self.budget, space=self._space(), objective=self.objective,
                device=self.device, run=folder / "run", assign=self.assign, seed=seed,
            )  # fmt: skip
        self.classes_, self.model_ = classes_K, found.model
        self.result_, self.report_ = found.result, found.report
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Probabilities [N, K] of the classes in `classes_`."""
        check_is_fitted(self, "model_")
        images_NHWC, _ = self._images(X, None, fitting=False)
        return self.model_.predict_proba(images_NHWC)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of every image, [N]."""
        best_N = self.predict_proba(X).argmax(1)
        found: NDArray[Any] = self.classes_[best_N]
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = tags.input_tags.positive_only = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The model as the files of its folder, which later versions of nasimb read too."""
        state: dict[str, Any] = dict(super().__getstate__())
        if isinstance(model := state.get("model_"), Model):
            with tempfile.TemporaryDirectory() as folder:
                save(model, Path(folder))
                state["model_"] = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        values = dict(state)
        if "model_" in values:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in values["model_"].items():
                    (Path(folder) / name).write_bytes(data)
                values["model_"] = load(folder)
        super().__setstate__(values)

    def _space(self) -> str:
        side = max(self.image_shape_[:2])
        return str(self.space or ("digits-resnet" if side <= SMALL_PIXELS else "cifar-resnet"))

    def _images(self, X: Any, y: Any, *, fitting: bool) -> tuple[NDArray[np.uint8], Any]:
        """(images_NHWC, y); X is checked against what was fitted, or y against what can be."""
        shape = X.shape[1:] if isinstance(X, np.ndarray) and X.ndim in (3, 4) else None
        flat = X if shape is None else X.reshape(len(X), math.prod(shape))
        if fitting:
            flat_ND, y = validate_data(self, flat, y, dtype=None, ensure_min_samples=2, ensure_min_features=2)
            check_classification_targets(y)
            if len(np.unique(y)) < 2:
                do = "Add images of another class."
                raise InputError("a classifier needs at least two classes", got=f"1 class: {y[0]}", do=do)
        else:
            flat_ND = validate_data(self, flat, reset=False, dtype=None)
        if flat_ND.dtype.kind in "if":
            check_non_negative(flat_ND, f"{type(self).__name__}, which takes images of 0 to 255")
        pixels_ND, shape = _whole(flat_ND), None if shape is None else (*shape, 1)[:3]
        if fitting:
            self.image_shape_ = shape or _square(flat_ND.shape[1])
        elif shape not in (None, self.image_shape_):
            raise InputError(f"images must be {self.image_shape_} as fitted", got=shape, do="Resize them.")
        return pixels_ND.reshape(len(flat_ND), *self.image_shape_), y


def _kept(arrays: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The data as a search takes them, in a file beside its run, where they stay what they were first.

    Raises:
        InputError: the folder holds other data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "data.npz"
    if not file.exists():
        with replacing(file) as part, part.open("wb") as archive:
            np.savez(archive, **arrays)
    elif not _holds(file, arrays):
        do = "Give this fit a run folder of its own, or remove that one."
        raise InputError("a run is of the images and labels it was begun with", got=f"others in {file}", do=do)
    return {"name": "arrays", "path": str(file.resolve())}


def _holds(file: Path, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether these arrays, to the bit, are what the file holds."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            if set(kept.files) != set(arrays):
                return False
            return all(
                kept[name].dtype == array.dtype and np.array_equal(kept[name], array) for name, array in arrays.items()
            )
    except DAMAGE:
        return False


def _square(pixels: int) -> tuple[int, int, int]:
    side = math.isqrt(pixels)
    if side * side != pixels:
        do = "Give images as [N, H, W] or [N, H, W, C]."
        raise InputError("flattened images must be square and grey", got=f"{pixels} pixels (n_features)", do=do)
    return side, side, 1


def _whole(flat_ND: NDArray[Any]) -> NDArray[np.uint8]:
    if flat_ND.dtype.kind not in "iu":
        raise InputError("X must be uint8 images", got=flat_ND.dtype, do="Scale to 0..255 and use .astype('uint8').")
    if flat_ND.dtype != np.uint8 and flat_ND.max() > 255:
        raise InputError("X must be uint8 images", got=f"values up to {flat_ND.max()}", do="Scale to 0..255.")
    return flat_ND.astype(np.uint8)
