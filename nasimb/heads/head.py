"""A fitted linear head: weights to keep, logits to compute, a plain module to export.

Shapes: B or N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from nasimb.heads.moments import Moments
from nasimb.heads.standardise import Standardised

ABSENT_LOGIT = -1e9
"""Bias of a class without training images: never predicted, and still finite in every format a model is saved in."""


class CosineHead(nn.Module):
    """scale * cos(standardised feature, class weight) + bias.

    Example:
        >>> weight_KD, zeros_D, ones_D = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2), torch.ones(2)
        >>> head = CosineHead(weight_KD, torch.zeros(2), zeros_D, ones_D, scale=torch.tensor(10.0))
        >>> head(torch.tensor([[3.0, 4.0], [30.0, 40.0]]))  # lengths do not matter
        tensor([[6., 8.],
                [6., 8.]])
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, weight_KD: Tensor, bias_K: Tensor, mean_D: Tensor, std_D: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight_KD)
        self.register_buffer("bias", bias_K)
        self.register_buffer("mean", mean_D)
        self.register_buffer("std", std_D)
        self.register_buffer("scale", scale)

    def forward(self, features_BD: Tensor) -> Tensor:
        """logits_BK."""
        directions_BD = normalize((features_BD - self.mean) / self.std, dim=1)
        return self.scale * linear(directions_BD, normalize(self.weight, dim=1)) + self.bias


@dataclass(frozen=True, eq=False)
class Head:
    """Linear classifier over features as the backbone gives them: the standardisation is folded in.

    Attributes:
        weight_KD, bias_K: logits = features @ weight.T + bias, in float64. Of a cosine head: directions, in the space
            of standardised features.
        mean_D, std_D: what standardised the features it was fitted to.
        name, setting: how it was fitted, and with which penalty or shrinkage.
        scale: of a cosine head; None for a linear one.
        solver: of an iterative head, "full batch" or "minibatch"; not saved.
        gradient_norm: of an iterative head, where its fit ended; not saved.
        tau: of the logit adjustment in the bias of a closed-form head; not saved.

    Example:
        >>> from nasimb.heads import parse_head
        >>> features_ND, labels_N = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([0, 0, 1, 1])
        >>> head = parse_head("ridge").fit(features_ND, labels_N, 2, setting=0.1)
        >>> head.logits(torch.tensor([[4.0], [6.0]])).argmax(1)
        tensor([0, 1])
        >>> head.to_module()
        Linear(in_features=1, out_features=2, bias=True)
    """

    weight_KD: Tensor
    bias_K: Tensor
    mean_D: Tensor
    std_D: Tensor
    name: str
    setting: float
    scale: float | None = None
    solver: str | None = None
    gradient_norm: float | None = None
    tau: float = 0.0

    @classmethod
    def from_standardised(
        cls,
        weight_PD: Tensor,
        bias_P: Tensor,
        problem: Standardised | Moments,
        *,
        name: str,
        setting: float,
        scale: float | None = None,
        solver: str | None = None,
        gradient_norm: float | None = None,
        tau: float = 0.0,
    ) -> Head:
        """The head over all classes, from weights of the classes present on standardised features."""
        weight_KD = weight_PD.new_zeros(problem.num_classes, weight_PD.shape[1])
        bias_K = bias_P.new_full((problem.num_classes,), ABSENT_LOGIT)
        if scale is None:
            weight_PD = weight_PD / problem.std_D
            bias_P = bias_P - weight_PD @ problem.mean_D
        weight_KD[problem.present_P], bias_K[problem.present_P] = weight_PD, bias_P
        return cls(weight_KD, bias_K, problem.mean_D, problem.std_D, name, setting, scale, solver, gradient_norm, tau)

    def logits(self, features_ND: Tensor) -> Tensor:
        """logits_NK, computed and returned in float64."""
        return _module(self.weight_KD, self.bias_K, self.mean_D, self.std_D, self.scale)(features_ND.double())  # type: ignore[no-any-return]

    def to_module(self) -> nn.Module:
        """A plain float32 module, features_BD -> logits_BK: `nn.Linear`, or a `CosineHead`."""
        return _module(self.weight_KD, self.bias_K, self.mean_D, self.std_D, self.scale).float().eval()

    def tensors(self) -> dict[str, Tensor]:
        """Every number of the head, for a safetensors file; `from_tensors` undoes it."""
        found = {"weight": self.weight_KD, "bias": self.bias_K, "mean": self.mean_D, "std": self.std_D}
        if self.scale is not None:
            found["scale"] = torch.tensor(self.scale, dtype=torch.float64)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, name: str, setting: float) -> Head:
        """Undo `tensors`. Raises KeyError where one is missing."""
        scale = float(tensors["scale"]) if "scale" in tensors else None
        return cls(tensors["weight"], tensors["bias"], tensors["mean"], tensors["std"], name, setting, scale)

    @staticmethod
    def module_from(kind: str, state: Mapping[str, Tensor]) -> nn.Module:
        """Undo `to_module`: the module of this class name ("Linear" or "CosineHead") with this state dict.

        Raises:
            KeyError: the kind is unknown, or a tensor is missing.
            RuntimeError: the tensors do not fit each other.
        """
        names = {"Linear": ("weight", "bias"), "CosineHead": ("weight", "bias", "mean", "std", "scale")}[kind]
        tensors = [state[name] for name in names]
        module = _linear(*tensors) if kind == "Linear" else CosineHead(*tensors)
        return module.eval()


def _module(weight_KD: Tensor, bias_K: Tensor, mean_D: Tensor, std_D: Tensor, scale: float | None) -> nn.Module:
    if scale is None:
        return _linear(weight_KD, bias_K)
    return CosineHead(weight_KD, bias_K, mean_D, std_D, torch.tensor(scale).to(weight_KD))


def _linear(weight_KD: Tensor, bias_K: Tensor) -> nn.Linear:
    num_classes, dimension = weight_KD.shape
    module = nn.Linear(dimension, num_classes, device="meta")
    module.load_state_dict({"weight": weight_KD, "bias": bias_K}, assign=True)
    return module.requires_grad_(False)
