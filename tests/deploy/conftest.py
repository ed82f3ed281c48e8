"""What the tests of graphs share."""

import functools
import importlib
from collections.abc import Iterator

import pytest

from homodistil_hf.models.onnx_graphs import missing_packages


@pytest.fixture(scope="session", autouse=True)
def _operators_are_listed_once() -> Iterator[None]:
    """torch lists all operators of ONNX anew for each graph, which takes a fifth of what making a small one takes."""
    with pytest.MonkeyPatch.context() as patch:
        if not missing_packages():
            kind = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
            patch.setattr(kind, "from_torchlib", staticmethod(functools.cache(kind.from_torchlib)))
        yield
