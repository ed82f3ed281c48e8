"""The plan that meets a latency budget on this machine, such as `"latency_ms=5"` or `"latency_ms=5,batch_size=8"`.

A latency table has the milliseconds of an encoder's parts at the widths of a grid: attention blocks, FFN blocks and
embeddings of random weights. The table is measured once for a machine, its versions and its number of threads, and
kept in the cache. A plan's milliseconds are the sum of its parts, interpolated between measured widths and flat beyond
them. plans/budgets.py searches with these sums. A run measures once and stores the plan, so that no measured time
steers a resumed run.

Shapes: B batch, T tokens, H hidden.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

from ...files.caches import cached
from ...files.field_checks import ROW_LENGTH
from ...files.messages import nearest_name, short_repr
from ...files.provenance import machine_facts
from ...files.strict_json import write_json
from ...models.architectures import architecture_of
from ...models.architectures.modeling_homobert import HomoBertConfig, HomoBertModel
from ...models.architectures.modeling_layerwise import encoder_layers
from ...models.tokenizers import fitted_length
from ...models.widths import LayerWidths, WidthPlan, widths_of
from ..budgets import LATENCY_BUDGET, plan_for_latency
from .timing import FirstOutput, Pass, check_backend, figures, make_runner, missing_reason, model_inputs, time_in_turns

logger = logging.getLogger(__name__)

AXES = {
    "embeddings": ("hidden_size",),
    "attention": ("hidden_size", "num_attention_heads", "head_dim"),
    "ffn": ("hidden_size", "intermediate_size"),
}
"""Parts of an encoder, each with its residual connection and LayerNorm, and the widths that its cost depends on."""

Grid: TypeAlias = Mapping[str, list[int]]
"""Width → its measured values, increasing."""

_SHARES = {
    "hidden_size": (8, 4, 2, 1),
    "num_attention_heads": (2, 1),
    "head_dim": (4, 2, 1),
    "intermediate_size": (8, 4, 2, 1),
}

TABLE_BACKENDS = ("torch", "onnxruntime")
_FILE = "table.json"
_DEPTH = 4  # blocks in a row, each with weights of its own: one alone would stay in the caches as no encoder does
_NUM_ROUNDS = 11
_NUM_WARMUP = 1

_TYPES = {"batch_size": int, "length": int, "backend": str}
_EXAMPLE = "latency_ms=5,batch_size=1,length=128,backend=torch"


def grid_below(teacher: WidthPlan) -> Grid:
    """Return the grid for students of a teacher: halves, quarters and eighths of its widths.

    Example:
    ```python
    >>> grid = grid_below(WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)))
    >>> grid["hidden_size"], grid["num_attention_heads"], grid["head_dim"], grid["intermediate_size"]
    ([96, 192, 384, 768], [6, 12], [16, 32, 64], [384, 768, 1536, 3072])

    ```
    """
    full = {"hidden_size": teacher.hidden_size, **dataclasses.asdict(teacher.widest)}
    return {name: sorted({max(1, full[name] // share) for share in shares}) for name, shares in _SHARES.items()}


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of the parts of an encoder.

    Args:
        grid: the widths that were measured.
        milliseconds: part → array with one axis a width, in the order of `AXES`.
    """

    grid: Grid
    milliseconds: Mapping[str, np.ndarray]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatencyTable":
        """Read the result of `to_dict`."""
        return cls(values["grid"], {part: np.array(values["milliseconds"][part]) for part in AXES})

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON values: `grid` and `milliseconds`."""
        arrays = {part: array.tolist() for part, array in self.milliseconds.items()}
        return {"grid": self.grid, "milliseconds": arrays}

    def latency_ms(self, plan: WidthPlan) -> float:
        """Predict a forward pass of embeddings and encoder; widths outside the grid count like the nearest inside."""
        layers = Counter(plan.layers)
        encoder_ms = sum(count * self._layer_ms(plan.hidden_size, layer) for layer, count in layers.items())
        return self._part_ms("embeddings", plan.hidden_size) + encoder_ms

    def _layer_ms(self, hidden_size: int, layer: LayerWidths) -> float:
        attention_ms = self._part_ms("attention", hidden_size, layer.num_attention_heads, layer.head_dim)
        return attention_ms + self._part_ms("ffn", hidden_size, layer.intermediate_size)

    def _part_ms(self, part: str, *widths: int) -> float:
        values = self.milliseconds[part]
        for name, width in zip(AXES[part], widths, strict=True):
            # interpolation takes the first axis away, so the next width finds its own in front
            values = np.apply_along_axis(functools.partial(np.interp, width, self.grid[name]), 0, values)
        return float(values)


@dataclass(frozen=True)
class Conditions:
    """Conditions of a measurement.

    Args:
        batch_size: sequences a forward pass, ≥ 1.
        length: tokens a sequence, ≥ 2; default: 128, or the positions of the teacher of a [`LatencyBudget`].
        backend: `"torch"` or `"onnxruntime"`, float32 on the CPU; installed.
    """

    batch_size: int = 1
    length: int | None = None
    backend: str = "torch"

    def __post_init__(self) -> None:
        for name, minimum in (("batch_size", 1), ("length", 2)):
            if (value := getattr(self, name)) is not None and value < minimum:
                raise ValueError(f"{name}={value} is too small; nearest valid: {minimum}")
        check_backend(self.backend)
        if self.backend not in TABLE_BACKENDS:
            raise ValueError(f"backend={self.backend!r} has no latency table; nearest valid: 'torch'")
        if reason := missing_reason(self.backend):
            raise ValueError(f"backend={self.backend!r} can't be used here: {reason}")

    def __str__(self) -> str:
        return f"batch {self.batch_size}, length {self.num_tokens}, {self.backend}"

    @property
    def num_tokens(self) -> int:
        """Tokens a sequence, by default as many as any teacher may have."""
        return self.length or ROW_LENGTH


def latency_table(config: PreTrainedConfig, conditions: Conditions) -> LatencyTable:
    """Return the latency table for students of a teacher on this machine, measuring it where it is not cached."""
    model_inputs(config, conditions.batch_size, conditions.num_tokens)  # or refuses the length
    grid = grid_below(widths_of(config))
    about = {
        "machine": machine_facts(),
        "conditions": asdict(conditions),
        "grid": grid,
        "shape": embedding_shape(config),
        "depth": _depth(config),
    }
    # all that changes a time changes the name in the cache
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
        # points are in the order of the product of the axes, so their times reshape to the grid
        medians = [statistics.median(durations_ms[str(point)]) for point in points if point[0] == part]
        # a pass ran several blocks in a row
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
    # 1 for widths that the part doesn't depend on
    narrow = {"hidden_size": 1, "num_attention_heads": 1, "head_dim": 1, "intermediate_size": 1}
    sized = HomoBertConfig(**narrow | dict(zip(AXES[part], widths, strict=True)), **embedding_shape(config))
    # As in the whole model: torch's own attention, or plain products in an ONNX graph.
    sized._attn_implementation = "sdpa" if conditions.backend == "torch" else "eager"
    depth, inputs = 1, model_inputs(sized, conditions.batch_size, conditions.num_tokens)[0]
    if part != "embeddings":
        depth, inputs = _depth(config), torch.randn(*inputs.shape, sized.hidden_size)
    blocks = nn.Sequential(*(_PARTS[part](sized) for _ in range(depth))).eval()
    return functools.partial(make_runner(blocks, conditions.backend, [inputs], folder), inputs)


def _depth(config: PreTrainedConfig) -> int:
    return min(_DEPTH, config.num_hidden_layers)


@dataclass(frozen=True)
class LatencyBudget:
    """Largest milliseconds, > 0, of one forward pass of a student's embeddings and encoder, and its conditions."""

    limit_ms: float
    conditions: Conditions = field(default_factory=Conditions)

    @classmethod
    def parse(cls, text: str) -> "LatencyBudget":
        """Read `latency_ms=…`, then any of `batch_size=…`, `length=…`, `backend=…`, separated by commas.

        Raises:
            ValueError: an unknown or repeated name, or an impossible value.

        Example:
        ```python
        >>> LatencyBudget.parse("latency_ms=2.5,length=64")
        LatencyBudget(limit_ms=2.5, conditions=Conditions(batch_size=1, length=64, backend='torch'))

        ```
        """
        pairs = [part.partition("=") for part in text.replace(" ", "").split(",")]
        values = {name: value for name, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"student={short_repr(text)} says something twice; expected for example {_EXAMPLE!r}")
        limit_ms = _number(text, values.pop(LATENCY_BUDGET, ""), float)
        if not (math.isfinite(limit_ms) and limit_ms > 0):
            raise ValueError(f"student={short_repr(text)} is no positive time; expected for example {_EXAMPLE!r}")
        for name in values:
            if name not in _TYPES:
                remedy = f"nearest valid: {nearest_name(name, _TYPES)!r}"
                if name == "layers":
                    remedy = "fewer layers go with a share of the MACs, such as 'macs=0.25,layers=4'"
                raise ValueError(f"student={short_repr(text)} has the unknown condition {name!r}; {remedy}")
        conditions: dict[str, Any] = {name: _number(text, value, _TYPES[name]) for name, value in values.items()}
        return cls(limit_ms, Conditions(**conditions))

    def on(self, config: PreTrainedConfig) -> "LatencyBudget":
        """The budget with the length of sequences that a teacher reads; see [`fitted_length`]."""
        length = self.conditions.length or fitted_length(None, config, argument="length", owner="teacher")
        return dataclasses.replace(self, conditions=dataclasses.replace(self.conditions, length=length))


@dataclass(frozen=True)
class LatencyPlan:
    """A plan, its predicted milliseconds and its teacher's; heads × head size is the hidden size."""

    plan: WidthPlan
    latency_ms: float
    teacher_latency_ms: float

    def facts(self, budget: LatencyBudget) -> dict[str, Any]:
        """Return the budget and the predictions as JSON values."""
        conditions = dataclasses.asdict(budget.conditions)
        predicted = {"student": self.latency_ms, "teacher": self.teacher_latency_ms}
        return {"limit_ms": budget.limit_ms, "conditions": conditions, "predicted_ms": predicted}


def plan_within(
    budget: LatencyBudget, config: PreTrainedConfig, *, multiple: int = 8, plain: bool = False
) -> LatencyPlan:
    """Find the largest plan for a teacher's configuration that is predicted to stay within a budget on this machine.

    Raises:
        ValueError: a budget out of reach, the message names the range; or a length above the teacher's positions.
    """
    architecture = architecture_of(config)
    if not architecture.is_timed:
        raise ValueError(
            f"student='latency_ms={budget.limit_ms:g}' is met with measured blocks of BERT, which a "
            f"{architecture.model_type} is not made of; nearest valid: a share of the MACs, such as 'macs=0.25'"
        )
    table = latency_table(config, budget.on(config).conditions)
    plan = plan_for_latency(budget.limit_ms, config, predict=table.latency_ms, multiple=multiple, plain=plain)
    return LatencyPlan(plan, table.latency_ms(plan), table.latency_ms(widths_of(config)))


@torch.no_grad()
def measure_plan(plan: WidthPlan, config: PreTrainedConfig, conditions: Conditions) -> dict[str, Any]:
    """Time an encoder of the plan and one of its teacher's widths in turns, both of random weights.

    Returns:
        JSON values: `latency` of `teacher` and `student` and `speed_up` of the student, see `figures`.
    """
    architecture, layer = architecture_of(config), plan.layers[0]
    student = architecture.stock_config(
        hidden_size=plan.hidden_size,
        num_hidden_layers=len(plan.layers),
        num_attention_heads=layer.num_attention_heads,
        intermediate_size=layer.intermediate_size,
        **embedding_shape(config),
    )
    passes = {}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        for name, shape in (("teacher", config), ("student", student)):
            encoder = (
                architecture.student_encoder
                if isinstance(shape, architecture.student_config)
                else architecture.stock_encoder
            )
            inputs = model_inputs(shape, conditions.batch_size, conditions.num_tokens)
            module = FirstOutput(encoder(shape, add_pooling_layer=False).eval())
            passes[name] = functools.partial(make_runner(module, conditions.backend, inputs, Path(folder)), *inputs)
        found = figures(time_in_turns(passes))
    return {"latency": found["latency"], "speed_up": found["speed_up"]["student"]}


def _number(text: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(
            f"student={short_repr(text)} is no latency budget; expected for example {_EXAMPLE!r}"
        ) from error
