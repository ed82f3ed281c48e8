"""Texts and marks for the tests of deployments."""

import importlib.util
from pathlib import Path

import pytest

from homodistil_hf.deploy.runtimes import node_problem
from homodistil_hf.models.onnx_graphs import missing_packages

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason="the [onnx] extra is not installed")
needs_openvino = pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed")
needs_node = pytest.mark.skipif(bool(node_problem()), reason=str(node_problem()))


def write_texts(file: Path, num_texts: int = 20) -> Path:
    """Lines of 1 to 9 of the tiny tokenizer's words."""
    lines = [
        " ".join(f"w{5 + (7 * line + 3 * word) % 90}" for word in range(1 + line % 9)) for line in range(num_texts)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file
