"""The int8 graph of least bytes times distance above the bar is chosen, and its parts are those that were named."""

import pytest
import torch
from deployed import needs_onnx
from torch import nn

from homodistil_hf.deploy.runtimes import quantize
from homodistil_hf.models.onnx_graphs import export_onnx

pytestmark = [needs_onnx]
PARTS = ["last quarter of the products", "products that narrow"]


class Tied(nn.Module):
    """A table that is its own decoder, with two products between."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.up, self.down = nn.Embedding(300, 16), nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, input_ids):
        return self.down(torch.relu(self.up(self.table(input_ids)))) @ self.table.weight.T


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(Tied(), [torch.arange(8).view(2, 4)], path)
    return path


def figures_by_size(fidelity):
    return lambda path: {"fidelity": fidelity, "distance": 0.1}


@pytest.mark.slow
def test_all_int8_wins_where_nothing_is_gained(graph, tmp_path):
    ways = quantize(graph, tmp_path / "int8.onnx", figures_by_size(0.99), least=0.98)
    assert [list(way.kept_float) for way in ways] == [[], *([part] for part in PARTS)]
    assert ways[0].size_bytes == (tmp_path / "int8.onnx").stat().st_size == min(way.size_bytes for way in ways)
    assert ways[0].size_bytes < graph.stat().st_size / 2  # table and decoder, which the float graph shares


@pytest.mark.slow
def test_the_part_whose_float_brings_more_than_it_costs_stays_float(graph, tmp_path):
    found = iter([0.1, 0.1, 0.001])
    ways = quantize(
        graph, tmp_path / "int8.onnx", lambda path: {"fidelity": 0.99, "distance": next(found)}, least=0.98
    )
    assert ways[0].kept_float == (PARTS[1],)


def test_below_the_bar_the_most_faithful_is_kept(graph, tmp_path):
    found = iter([0.5, 0.6, 0.4])
    ways = quantize(graph, tmp_path / "int8.onnx", lambda path: {"fidelity": next(found), "distance": 0.1}, least=0.98)
    assert [way.figures["fidelity"] for way in ways] == [0.6, 0.5, 0.4]
    assert ways[0].size_bytes == (tmp_path / "int8.onnx").stat().st_size
