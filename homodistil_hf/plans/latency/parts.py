"""Measures a latency table: attention blocks, FFN blocks and embeddings of random weights, at the widths of a grid.

A table is measured once for a machine, its versions and its number of threads, and kept in the cache. tables.py
predicts a plan's milliseconds from it.

Shapes: B batch, T tokens, H hidden.
"""

import functools
import hashlib
import itertools
import json
import logging
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

from ...files.caches import cached
from ...files.provenance import machine_facts
from ...files.strict_json import write_json
from ...models.architectures.modeling_homobert import HomoBertConfig, HomoBertModel
from ...models.architectures.modeling_layerwise import encoder_layers
from ...models.widths import widths_of
from .backends import check_backend, make_runner, missing_reason, model_inputs
from .tables import AXES, Grid, LatencyTable, grid_below
from .timing import Pass, time_in_turns

logger = logging.getLogger(__name__)

TABLE_BACKENDS = ("torch", "onnxruntime")
_FILE = "table.json"
_DEPTH = 4  # blocks in a row, each with weights of its own: one alone would stay in the caches as no encoder does
_NUM_ROUNDS = 11
_NUM_WARMUP = 1


@dataclass(frozen=True)
class Conditions:
    """Conditions of a measurement.

    Args:
        batch_size: sequences a forward pass, ≥ 1.
        length: tokens a sequence, ≥ 2.
        backend: `"torch"` or `"onnxruntime"`, float32 on the CPU; installed.
    """

    batch_size: int = 1
    length: int = 128
    backend: str = "torch"

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("length", 2)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} is too small; nearest valid: {minimum}")
        check_backend(self.backend)
        if self.backend not in TABLE_BACKENDS:
            raise ValueError(f"backend={self.backend!r} has no latency table; nearest valid: 'torch'")
        if reason := missing_reason(self.backend):
            raise ValueError(f"backend={self.backend!r} can't be used here: {reason}")

    def __str__(self) -> str:
        return f"batch {self.batch_size}, length {self.length}, {self.backend}"


def latency_table(config: PreTrainedConfig, conditions: Conditions) -> LatencyTable:
    """Return the latency table for students of a teacher on this machine, measuring it where it is not cached."""
    model_inputs(config, conditions.batch_size, conditions.length)  # or refuses the length
    grid = grid_below(widths_of(config))
    about = {
        "machine": machine_facts(),
        "conditions": asdict(conditions),
        "grid": grid,
        "shape": embedding_shape(config),
        "depth": _depth(config),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        logger.info("measuring a latency table of this machine (%s), a minute or two; it is then kept", conditions)
        write_json(folder / _FILE, {**about, **measure_table(config, conditions, grid).to_dict()})

    return LatencyTable.from_dict(json.loads((cached("latency", key, build) / _FILE).read_text(encoding="utf-8")))


@torch.no_grad()
def measure_table(config: PreTrainedConfig, conditions: Conditions, grid: Grid) -> LatencyTable:
    """Measure all parts of a grid, in turns, with a teacher's configuration except for its widths."""
    axes = {part: [grid[name] for name in names] for part, names in AXES.items()}
    points = [(part, *widths) for part in AXES for widths in itertools.product(*axes[part])]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        passes = {str(point): _pass(point, config, conditions, Path(folder)) for point in points}
        durations_ms = time_in_turns(passes, num_rounds=_NUM_ROUNDS, num_warmup=_NUM_WARMUP)
    milliseconds = {}
    for part in AXES:
        medians = [statistics.median(durations_ms[str(point)]) for point in points if point[0] == part]
        num_blocks = 1 if part == "embeddings" else _depth(config)
        milliseconds[part] = np.array(medians).reshape([len(axis) for axis in axes[part]]) / num_blocks
    return LatencyTable(grid, milliseconds)


def embedding_shape(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the settings besides widths that latency depends on: rows of tables, activation, ε."""
    names = ("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps")
    return {name: getattr(config, name) for name in names}


class AttentionBlock(nn.Module):
    """An attention block, `(batch, tokens, hidden)` in and out."""

    def __init__(self, config: HomoBertConfig):
        super().__init__()
        self.block = _layer(config).attention

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Return the block's output without the attention weights."""
        return self.block(hidden_BTH)[0]


class FeedForwardBlock(nn.Module):
    """An FFN block, `(batch, tokens, hidden)` in and out."""

    def __init__(self, config: HomoBertConfig):
        super().__init__()
        layer = _layer(config)
        self.block_in, self.block_out = layer.intermediate, layer.output

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Pass the FFN, its residual connection and LayerNorm."""
        return self.block_out(self.block_in(hidden_BTH), hidden_BTH)


def _layer(config: HomoBertConfig) -> Any:
    one = HomoBertConfig(**config.to_dict() | {"num_hidden_layers": 1, "vocab_size": 1})
    one._attn_implementation = config._attn_implementation
    return encoder_layers(HomoBertModel(one))[0]


_PARTS: dict[str, type[nn.Module]] = {
    "embeddings": BertEmbeddings,
    "attention": AttentionBlock,
    "ffn": FeedForwardBlock,
}


def _pass(point: tuple[Any, ...], config: PreTrainedConfig, conditions: Conditions, folder: Path) -> Pass:
    part, *widths = point
    narrow = {"hidden_size": 1, "num_attention_heads": 1, "head_dim": 1, "intermediate_size": 1}
    sized = HomoBertConfig(**narrow | dict(zip(AXES[part], widths, strict=True)), **embedding_shape(config))
    # As in the whole model: torch's own attention, or plain products in an ONNX graph.
    sized._attn_implementation = "sdpa" if conditions.backend == "torch" else "eager"
    depth, inputs = 1, model_inputs(sized, conditions.batch_size, conditions.length)[0]
    if part != "embeddings":
        depth, inputs = _depth(config), torch.randn(*inputs.shape, sized.hidden_size)
    blocks = nn.Sequential(*(_PARTS[part](sized) for _ in range(depth))).eval()
    return functools.partial(make_runner(blocks, conditions.backend, [inputs], folder), inputs)


def _depth(config: PreTrainedConfig) -> int:
    return min(_DEPTH, config.num_hidden_layers)
