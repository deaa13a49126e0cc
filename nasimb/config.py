"""The whole run as one frozen tree: what `RUN/config.yaml` holds and what a resumed run is compared with.

Only `pipeline` and `cli` know it; every other room takes plain values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from nasimb.budget import Budget
from nasimb.data import parse_dataset
from nasimb.errors import InputError, unknown_name
from nasimb.heads import HEADS, is_closed_form, parse_head
from nasimb.losses import parse_loss
from nasimb.metrics import OBJECTIVES
from nasimb.search.study import SAMPLERS
from nasimb.spec import Spec, find_shipped, parse, read_yaml
from nasimb.supernet.calibrate import CALIBRATIONS
from nasimb.supernet.train import Recipe

Named = str | dict[str, Any]


class HeadOptions(Spec):
    """Which heads rank the candidates, and which are tried on the finalists.

    Attributes:
        ranking: closed-form heads that score every candidate; the best one counts. Names, or mappings with options
            ({name: gda, class_weighting: effective_number, taus: [0, 0.5]}); each name once. The discriminant alone
            is the default: in most trials it ordered candidates as well as ridge or better (Kendall tau with the test:
            10 classes 0.45 against 0.32, 121 classes 0.55 against 0.51; `nasimb bench ranking`).
        finalists: heads tried on the best candidates: losses (logistic head) and closed-form heads, by name or with
            options. Plain cross entropy would bring its free corrections (logit adjustment, tau-normalisation); with a
            handful of tail images to choose their tau by, the luckiest wins: only heads that balance are the default.
        count: how many of the best candidates are tried; where a time limit leaves time, the next best too.
        folds: stratified folds that compare heads and choose their penalty. None: 5, or 3 where images x features x
            classes exceed 10^8.
        penalties: L2 penalties of the logistic head. None: five from 0.1 to 1e-5, or two beyond that size.
        crops: of every image, that the heads of the winner and the baselines are fitted to in the end: the image itself
            and so many less one shifted (and where allowed mirrored) copies.
    """

    ranking: Annotated[tuple[Named, ...], Field(min_length=1)] = ("gda",)
    finalists: tuple[Named, ...] = ("balanced_softmax", "gda", "ridge")
    count: PositiveInt = 5
    folds: Annotated[int, Field(ge=2)] | None = None
    penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    crops: PositiveInt = 1

    @field_validator("ranking")
    @classmethod
    def _known(cls, heads: tuple[Named, ...]) -> tuple[Named, ...]:
        names = [head if isinstance(head, str) else str(head.get("name")) for head in heads]
        for name, head in zip(names, heads, strict=True):
            if not is_closed_form(head):
                raise unknown_name("a ranking head", name, HEADS)
            parse_head(head)
        if len(set(names)) < len(names):  # trials say by its name which one ranked them
            raise ValueError("each ranking head may be given once")
        return heads

    @field_validator("finalists")
    @classmethod
    def _parsed(cls, heads: tuple[Named, ...]) -> tuple[Named, ...]:
        for head in heads:
            if is_closed_form(head):
                parse_head(head)
            else:
                parse_loss(head)
        return heads


class ScreeningOptions(Spec):
    """Whether candidates are scored on part of the images first (see `nasimb.search.screening`).

    Attributes:
        enabled: where it pays: not on small targets, whose rare classes are most of them.
        images_per_class: most of any class in the part. None: as many as make a tenth of the images, 20 at least.
        eta: one candidate in so many goes on to all images.
    """

    enabled: bool = True
    images_per_class: PositiveInt | None = None
    eta: Annotated[int, Field(ge=2)] = 8


class RunConfig(Spec):
    """One run of `nasimb search`. Every default follows from the data, the budget and the device.

    Attributes:
        data: the imbalanced target, as on the command line (`folder:DIR`) or as a mapping of its options.
        source: the balanced data for the super-network; "target": the target itself; None: the data set's own
            balanced part where it has one, else the target.
        supernet: folder of a super-network trained before; it brings the images that calibrate, so `source` stays out.
        imbalance_factor: makes the target long-tailed by subsampling; None leaves it as it is.
        test_fraction, validation_fraction: held out where the data have no such split and one is needed.
        space: search space, by name or path; None chooses by the data: digits-resnet or cifar-resnet.
        budget: e.g. "8gpu-h", "30min,200trials".
        objective: what ranks candidates; with ",macs" or ",params" a Pareto study of score against cost.
        validation: "auto" is leave-one-out where the backbone has not seen the target, hold-out where it has.
        supernet_share: of a time limit that trains the super-network.
        training: how; its sampling is natural where the super-network is trained on the target, unless given.
        batch_size: images of one forward pass. None: what fits a processor's cache, or 1024 on a GPU.
        precision: of the convolutions while candidates are scored. auto: the faster one, measured at the start, where
            the budget limits time; float32 where it does not, so that runs repeat.
        memory_mib: decoded images up to this stay in memory; so do features of a batch of candidates, and maps of the
            calibration images.
        training_steps: length of the super-network's training where the budget has no time limit.
    """

    data: Named = "digits"
    source: Named | None = None
    supernet: str | None = None
    imbalance_factor: float | None = None
    profile: Literal["exponential", "step"] = "exponential"
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    validation_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    validation: Literal["auto", "leave-one-out", "holdout"] = "auto"
    space: str | None = None
    budget: str = "3min"
    objective: str = "balanced_accuracy"
    max_macs: int | None = None
    max_params: int | None = None
    sampler: str = "evolution"
    calibrations: Annotated[tuple[str, ...], Field(min_length=1)] = ("source",)
    seed: NonNegativeInt = 0
    device: str = "auto"
    heads: HeadOptions = HeadOptions()
    screening: ScreeningOptions = ScreeningOptions()
    training: Recipe = Recipe()
    supernet_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    training_steps: PositiveInt = 500
    calibration_images: PositiveInt = 1024
    batch_size: PositiveInt | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_mib: PositiveInt = 4096
    skip_bad_images: bool = False
    download: bool = False

    @field_validator("budget")
    @classmethod
    def _budget(cls, text: str) -> str:
        Budget.parse(text)
        return text

    @field_validator("max_macs", "max_params", mode="before")
    @classmethod
    def _amount(cls, value: object) -> object:
        return parse_amount(value) if isinstance(value, str) else value

    @field_validator("objective")
    @classmethod
    def _objective(cls, text: str) -> str:
        metric, _, cost = text.partition(",")
        if metric not in OBJECTIVES:
            raise unknown_name("the objective", metric, OBJECTIVES)
        if cost not in ("", "macs", "params"):
            raise unknown_name("the cost after the objective's comma", cost, ("macs", "params"))
        return text

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise unknown_name("the sampler", name, SAMPLERS)
        return name

    @field_validator("calibrations")
    @classmethod
    def _calibrations(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CALIBRATIONS:
                raise unknown_name("a calibration", name, CALIBRATIONS)
        if len(set(names)) < len(names):  # or the search would draw it more often than others
            raise ValueError("each calibration may be given once")
        return names

    @model_validator(mode="after")
    def _one_source(self) -> RunConfig:
        if self.supernet is not None and self.source is not None:
            raise ValueError("a ready super-network has its own source: give --supernet or --source, not both")
        return self

    @property
    def metric(self) -> str:
        """The objective's accuracy part."""
        return self.objective.partition(",")[0]

    @property
    def cost(self) -> str | None:
        """The objective's cost part, or None."""
        return self.objective.partition(",")[2] or None

    @property
    def on_target(self) -> bool:
        """Whether the super-network is trained on the target itself."""
        own_source = parse_dataset(self.data).has_source
        return self.supernet is None and (self.source == "target" or (self.source is None and not own_source))

    def resolved(self) -> RunConfig:
        """The same with every default that follows from other options filled in."""
        changes: dict[str, Any] = {}
        spec = parse_dataset(self.data)
        if self.space is None and self.supernet is None:
            changes["space"] = "digits-resnet" if spec.name == "digits" else "cifar-resnet"
        if self.imbalance_factor is None:
            changes["imbalance_factor"] = spec.default_imbalance_factor
        if self.on_target and "sampling" not in self.training.model_fields_set:
            changes["training"] = self.training.model_copy(update={"sampling": "natural"})
        return self.model_copy(update=changes)

    def to_dict(self) -> dict[str, Any]:
        """YAML- and JSON-ready; of the training only what was given, since the rest follows from device and time."""
        return {**self.model_dump(mode="json"), "training": self.training.model_dump(mode="json", exclude_unset=True)}

    def run_name(self) -> str:
        """Name of the run folder where none is given: the data, a ready super-network, the budget and the seed."""
        spec = parse_dataset(self.data)
        place = getattr(spec, "path", None)
        named = self.data if isinstance(self.data, str) and place is None else spec.name
        stem = named if place is None else f"{named}-{Path(place).resolve().stem}"
        ready = [] if self.supernet is None else [Path(self.supernet).resolve().name]
        parts = (stem, *ready, self.budget, f"seed{self.seed}")
        return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts)


def load_config(file: str | None, options: Mapping[str, Any], assignments: Sequence[str] = ()) -> RunConfig:
    """A configuration from a file, command-line options over it, and `key=value` assignments over those.

    Args:
        file: path of a YAML file or stem of a shipped one; None: defaults only.
        options: top-level keys; None means not given.
        assignments: dotted keys with YAML values, e.g. "training.batch_size=128".

    Raises:
        InputError: an unknown key (with the nearest known), or a value that cannot be.
    """
    values: dict[str, Any] = {} if file is None else read_yaml(find_shipped("configs", file))
    values.update({key: value for key, value in options.items() if value is not None})
    assign(values, assignments)
    return parse(RunConfig, values, what="the configuration").resolved()


def assign(values: dict[str, Any], assignments: Sequence[str]) -> None:
    """Write `key=value` assignments, dotted keys with YAML values, into nested `values`.

    Raises:
        InputError: no such form, or a key inside something that has none.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError("--set takes key=value", got=repr(assignment), do="Write for example heads.folds=3.")
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError("--set must name an option", got=f"{key!r}", do=f"{parent} has no keys of its own.")
            place = inner
        place[last] = _yaml_value(text)


def as_typed(
    *,
    config: str | None = None,
    assign: Sequence[str] | None = None,
    supernet: str | Path | None = None,
    calibration: str | Sequence[str] | None = None,
    sampling: str | None = None,
    head_crops: int | None = None,
    **options: Any,
) -> RunConfig:
    """The configuration that options by their names on the command line ask for; None means not given.

    Args:
        config: as `load_config` takes its file; `assign` as its assignments.
        calibration: names, several joined by commas too.
        options: those that `RunConfig` names alike.

    Raises:
        InputError: as `load_config`.
    """
    named = {
        **options,
        "supernet": None if supernet is None else str(supernet),
        "calibrations": None if calibration is None else _split(calibration),
    }
    more = [] if sampling is None else [f"training.sampling={sampling}"]
    more += [] if head_crops is None else [f"heads.crops={head_crops}"]
    return load_config(config, named, [*more, *(assign or [])])


def _split(names: str | Sequence[str]) -> list[str]:
    return (names if isinstance(names, str) else ",".join(names)).split(",")


def _yaml_value(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError("a value must be YAML", got=repr(text), do="Quote it, or close its brackets.") from None


def parse_amount(text: str) -> int:
    """Read "50M" as 50,000,000 (K, M and G are powers of ten).

    >>> parse_amount("1.5M")
    1500000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGkmg]?)", text.strip())
    if match is None:
        raise InputError("an amount must be a number, with K, M or G if you like", got=repr(text), do="Write 50M.")
    return round(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()])
