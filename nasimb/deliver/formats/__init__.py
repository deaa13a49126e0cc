"""The table of formats that a model can be exported in."""

from __future__ import annotations

from nasimb.deliver.formats.base import Format
from nasimb.deliver.formats.onnx import Onnx
from nasimb.deliver.formats.safetensors import Safetensors
from nasimb.deliver.formats.torch_export import TorchExport

FORMATS: dict[str, type[Format]] = {
    "torch-export": TorchExport,
    "onnx": Onnx,
    "safetensors": Safetensors,
}
