"""What one benchmark measures: shape, student, batch, type, and how often; and the models and data that follow.

Weights and token ids are random: they don't matter for speed. Teacher and student start a little apart, so that every
term of the loss has a value to compare.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from homodistil_hf.models.widths import WidthPlan, teacher_plan
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.schedule import PruningSchedule
from homodistil_hf.training_args import PRUNING_KINDS, HomoDistilTrainingArguments

SHAPES: dict[str, dict[str, int]] = {
    "bert-base": {},
    "teacher6x384": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


_START_NOISE = 1e-3


@dataclass(frozen=True)
class BenchSettings:
    """One benchmark.

    Args:
        shape: of the teacher: a name in `SHAPES`, or `BertConfig` values as a JSON object.
        student: preset, budget or plan, as the trainer takes it.
        batch_size: sequences a step.
        length: tokens a sequence.
        accumulation_steps: batches a step.
        dtype: `float32` or `bfloat16`: type of the matrix products of all arms.
        device: `cpu` or `cuda`.
        attention_weight: factor of the attention term in all arms; 0 = off.
        importance_metric: of our arms; the reference takes sensitivity.
        rounds: timed steps of every arm.
        warmup_rounds: steps of every arm before those.
        points: places of the schedule that are measured, ≥ 2.
        max_steps: length of the run that is summed up, in steps.
        pruning_end_fraction: share of the steps at which the plan is reached.
        pruning_interval_steps: steps between two choices of masks.
        compaction_threshold: as the trainer takes it.
        multiple: widths in between are rounded up to this.
        compiled: whether our arms run under `torch.compile`.
        with_reference: whether the reference is measured.
        seed: of weights, token ids, data order and masks.

    Raises:
        ValueError: an unknown shape, type or device, or a count that is too small.

    Example:
    ```python
    >>> BenchSettings(shape="bert-base", student="homobert-tiny").target.hidden_size
    224

    ```
    """

    shape: str = "teacher6x384"
    student: str = "macs=0.25"
    batch_size: int = 32
    length: int = 128
    accumulation_steps: int = 1
    dtype: str = "bfloat16"
    device: str = "cpu"
    attention_weight: float = 0.0
    importance_metric: str = HomoDistilTrainingArguments.importance_metric
    rounds: int = 7
    warmup_rounds: int = 2
    points: int = 5
    max_steps: int = 28_000
    pruning_end_fraction: float = HomoDistilTrainingArguments.pruning_end_fraction
    pruning_interval_steps: int = HomoDistilTrainingArguments.pruning_interval_steps
    compaction_threshold: float = HomoDistilTrainingArguments.compaction_threshold
    multiple: int = HomoDistilTrainingArguments.width_multiple
    compiled: bool = False
    with_reference: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is unknown; nearest valid: {' or '.join(DTYPES)}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device!r} is unknown; nearest valid: cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda', but torch sees no CUDA device; use device='cpu'")
        minima = dict.fromkeys(("batch_size", "accumulation_steps", "rounds", "warmup_rounds", "max_steps"), 1)
        minima |= {"length": 4, "points": 2}
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} is too small; nearest valid: {minimum}")
        if self.length > self.config.max_position_embeddings:
            raise ValueError(
                f"length={self.length} is above the shape's max_position_embeddings="
                f"{self.config.max_position_embeddings}; nearest valid: {self.config.max_position_embeddings}"
            )

    @property
    def config(self) -> BertConfig:
        """The teacher's configuration; without dropout, which would make losses differ."""
        return BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **_shape_values(self.shape))

    @property
    def full(self) -> WidthPlan:
        """The teacher's widths."""
        return teacher_plan(self.config)

    @property
    def target(self) -> WidthPlan:
        """The student's widths at the end."""
        return resolve_plan(self.student, self.config, multiple=self.multiple)

    @property
    def schedule(self) -> PruningSchedule:
        """When the run that is summed up chooses masks."""
        window = (0.0, self.pruning_end_fraction)
        return PruningSchedule(dict.fromkeys(PRUNING_KINDS, window), self.pruning_interval_steps, self.max_steps)

    @property
    def num_tokens(self) -> int:
        """Tokens a step."""
        return self.accumulation_steps * self.batch_size * self.length


@dataclass(frozen=True)
class Workload:
    """Models and data that all arms of one benchmark share.

    Args:
        teacher: stock model in float32.
        start: what every student starts as.
        tokenizer: of as many words as the vocabulary has rows.
        blocks: rows of token ids, enough for one pass.
    """

    teacher: BertForMaskedLM
    start: BertForMaskedLM
    tokenizer: BertTokenizer
    blocks: Dataset


def _shape_values(shape: str) -> dict[str, Any]:
    if shape in SHAPES:
        return SHAPES[shape]
    if not shape.startswith("{"):
        raise ValueError(f"shape={shape!r} is unknown; nearest valid: {', '.join(SHAPES)}, or a JSON object")
    return json.loads(shape)


def make_workload(settings: BenchSettings, *, num_steps: int) -> Workload:
    """Draw models and data.

    Args:
        settings: of the benchmark.
        num_steps: steps that one pass over the data must last.

    Returns:
        [`Workload`].
    """
    torch.manual_seed(settings.seed)
    config = settings.config
    teacher = BertForMaskedLM(config).eval()
    start = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=_START_NOISE)
    words = [*_SPECIAL_TOKENS, *(f"w{i}" for i in range(len(_SPECIAL_TOKENS), config.vocab_size))]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    blocks = _random_blocks(settings, num_blocks=num_steps * settings.accumulation_steps * settings.batch_size)
    return Workload(teacher, start, tokenizer, blocks)


def _random_blocks(settings: BenchSettings, *, num_blocks: int) -> Dataset:
    generator = np.random.default_rng(settings.seed)
    shape = (num_blocks, settings.length)
    ids = generator.integers(len(_SPECIAL_TOKENS), settings.config.vocab_size, shape)
    ids[:, 0], ids[:, -1] = _SPECIAL_TOKENS.index("[CLS]"), _SPECIAL_TOKENS.index("[SEP]")
    return Dataset.from_dict({"input_ids": ids, "example_id": np.arange(num_blocks)})
