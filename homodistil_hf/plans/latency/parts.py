"""Measures a latency table: attention blocks, FFN blocks and embeddings of random weights, at the widths of a grid.

A table is measured once for a machine, its versions and its number of threads, and kept in the cache. What is made of
it isn't here.
"""

import hashlib
import itertools
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.bert.modeling_bert import BertEmbeddings, BertIntermediate, BertOutput

from ...files.caches import cached
from ...files.provenance import machine_facts
from ...files.strict_json import write_json
from ...models.families.modeling_homobert import HomoBertAttention, HomoBertConfig
from ...models.widths import teacher_plan
from .backends import bound, check_backend, make_runner, missing_reason, model_inputs
from .tables import AXES, LatencyTable, PartsGrid
from .timing import Pass, time_in_turns

logger = logging.getLogger(__name__)

TABLE_BACKENDS = ("torch", "onnxruntime")
_FILE = "table.json"
_DEPTH = 4  # blocks in a row, each with weights of its own: one alone would stay in the caches as no encoder does
_NUM_ROUNDS = 11
_NUM_WARMUP = 1


@dataclass(frozen=True)
class Conditions:
    """What is run, and how.

    Args:
        batch_size: sequences a forward pass, ≥ 1.
        length: tokens a sequence, ≥ 2.
        backend: `"torch"` or `"onnxruntime"`, float32 on the CPU.

    Raises:
        ValueError: a number is too small, an unknown backend, or one that is not installed.
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
    """Return the latency table for students of a teacher on this machine, measuring it where it is not cached.

    Args:
        config: the teacher's.
        conditions: what is run, and how.

    Returns:
        [`LatencyTable`].

    Raises:
        ValueError: the length is above the teacher's positions.
    """
    model_inputs(config, conditions.batch_size, conditions.length)  # or refuses the length
    teacher = teacher_plan(config)
    about = {
        "machine": machine_facts(),
        "conditions": asdict(conditions),
        "grid": asdict(PartsGrid.below(teacher)),
        "shape": embedding_shape(config),
        "depth": _depth(config),
    }
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    def build(folder: Path) -> None:
        logger.info("measuring a latency table of this machine (%s), a minute or two; it is then kept", conditions)
        table = measure_table(config, conditions, PartsGrid.below(teacher))
        write_json(folder / _FILE, {**about, **table.to_dict()})

    return LatencyTable.from_dict(json.loads((cached("latency", key, build) / _FILE).read_text(encoding="utf-8")))


@torch.no_grad()
def measure_table(config: PreTrainedConfig, conditions: Conditions, grid: PartsGrid) -> LatencyTable:
    """Measure all parts of a grid, in turns.

    Args:
        config: the teacher's, for everything but the widths.
        conditions: what is run, and how.
        grid: the widths.

    Returns:
        [`LatencyTable`].
    """
    points = [(part, *widths) for part in AXES for widths in itertools.product(*grid.axes(part))]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        passes = {str(point): _pass(point, config, conditions, Path(folder)) for point in points}
        durations_ms = time_in_turns(passes, num_rounds=_NUM_ROUNDS, num_warmup=_NUM_WARMUP)
    milliseconds = {}
    for part in AXES:
        medians = [statistics.median(durations_ms[str(point)]) for point in points if point[0] == part]
        num_blocks = 1 if part == "embeddings" else _depth(config)
        milliseconds[part] = np.array(medians).reshape([len(axis) for axis in grid.axes(part)]) / num_blocks
    return LatencyTable(grid, milliseconds)


def embedding_shape(config: PreTrainedConfig) -> dict[str, Any]:
    """What latency depends on besides widths.

    Args:
        config: of any BERT.

    Returns:
        `dict`: arguments of a configuration: the embedding tables' rows, activation, ε.
    """
    names = ("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps")
    return {name: getattr(config, name) for name in names}


class AttentionBlocks(nn.Module):
    """Attention blocks in a row.

    Args:
        config: widths of all of them.
        depth: how many.
    """

    def __init__(self, config: HomoBertConfig, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(HomoBertAttention(config) for _ in range(depth))

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """One after the other, `(batch, tokens, hidden)` in and out."""
        for block in self.blocks:
            hidden_BTH = block(hidden_BTH)[0]
        return hidden_BTH


class FeedForwardBlocks(nn.Module):
    """FFN blocks in a row.

    Args:
        config: widths of all of them.
        depth: how many.
    """

    def __init__(self, config: HomoBertConfig, depth: int):
        super().__init__()
        self.blocks_in = nn.ModuleList(BertIntermediate(config) for _ in range(depth))
        self.blocks_out = nn.ModuleList(BertOutput(config) for _ in range(depth))

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """One after the other, `(batch, tokens, hidden)` in and out."""
        for block_in, block_out in zip(self.blocks_in, self.blocks_out, strict=True):
            hidden_BTH = block_out(block_in(hidden_BTH), hidden_BTH)
        return hidden_BTH


def _pass(point: tuple[Any, ...], config: PreTrainedConfig, conditions: Conditions, folder: Path) -> Pass:
    part, *widths = point
    sized = _sized(config, dict(zip(AXES[part], widths, strict=True)))
    # As the whole model is run: torch's own attention there, plain products in an ONNX graph.
    sized._attn_implementation = "sdpa" if conditions.backend == "torch" else "eager"
    modules: dict[str, Callable[[], nn.Module]] = {
        "embeddings": lambda: BertEmbeddings(sized),
        "attention": lambda: AttentionBlocks(sized, _depth(config)),
        "ffn": lambda: FeedForwardBlocks(sized, _depth(config)),
    }
    inputs: torch.Tensor = model_inputs(sized, conditions.batch_size, conditions.length)[0]
    if part != "embeddings":
        inputs = torch.randn(*inputs.shape, sized.hidden_size)
    runner = make_runner(modules[part]().eval(), conditions.backend, [inputs], folder)
    return bound(runner, [inputs])


def _sized(config: PreTrainedConfig, widths: Mapping[str, int]) -> HomoBertConfig:
    narrow = {"hidden_size": 1, "num_attention_heads": 1, "head_dim": 1, "intermediate_size": 1}
    return HomoBertConfig(**narrow | dict(widths), **embedding_shape(config))


def _depth(config: PreTrainedConfig) -> int:
    return min(_DEPTH, config.num_hidden_layers)
