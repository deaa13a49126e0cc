"""`onnx`: a graph for ONNX Runtime and everything else that reads ONNX."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from sys import stderr

import torch
from torch import Tensor

from nasimb.deliver.formats.base import Format, Runner
from nasimb.deliver.network import Shipped
from nasimb.errors import InputError

NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Format):
    """Input `images`, output `logits`; the metadata are the model's own, weights inside the one file."""

    file = "model.onnx"

    def check(self) -> None:
        """The exporter and the runtime are an extra of this package."""
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            do = "Install them: pip install 'nasimb[onnx]'."
            raise InputError("ONNX needs packages of its own", got=f"no {' and no '.join(missing)}", do=do)

    def write(self, shipped: Shipped, metadata: Mapping[str, str], path: Path) -> None:
        """Capture the network with a free batch dimension and translate it."""
        with _quiet():
            program = torch.onnx.export(
                shipped.network,
                (shipped.example(),),
                dynamo=True,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(path, external_data=False)

    def runner(self, path: Path) -> Runner:
        """ONNX Runtime on one thread of the CPU for each of torch's."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> Tensor:
            (logits_BK,) = session.run(["logits"], {"images": images.numpy()})
            return torch.from_numpy(logits_BK)

        return run


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress on standard output, which is for answers, and warns of what it does itself."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
