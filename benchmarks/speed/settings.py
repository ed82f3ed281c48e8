"""The settings of one benchmark, a flag each, and its models and data, with random weights and token ids.

Teacher and student start a little apart, so that every term of the loss has a value to compare.
"""

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from homodistil_hf.homodistil_args import HomoDistilTrainingArguments
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.schedule import PruningSchedule

SHAPES: dict[str, dict[str, int]] = {
    "bert-base": {},
    "teacher6x384": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MINIMA = dict.fromkeys(("batch_size", "accumulation_steps", "instances", "rounds", "warmup_rounds", "max_steps"), 1)
MINIMA |= {"length": 4, "points": 2}
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_START_NOISE = 1e-3


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _trainers(name: str, text: str) -> Any:
    return _flag(getattr(HomoDistilTrainingArguments, name), text)


@dataclass(frozen=True)
class BenchSettings:
    """One benchmark."""

    shape: str = _flag("teacher6x384", "teacher: bert-base, teacher6x384, or BertConfig values as a JSON object")
    student: str = _flag("macs=0.25", "preset, budget or plan, as the trainer takes it")
    batch_size: int = _flag(32, "sequences a batch")
    length: int = _flag(128, "tokens a sequence")
    accumulation_steps: int = _flag(1, "batches a step")
    dtype: str = _flag("bfloat16", "matrix products of all variants: bfloat16 or float32")
    device: str = _flag("cpu", "cpu or cuda")
    mlm_probability: float = _trainers("mlm_probability", "share of the tokens that are predicted")
    attention_weight: float = _flag(0.0, "factor of the attention term in all variants; 0 is off")
    importance_metric: str = _trainers("importance_metric", "how our variants score units; the loops: sensitivity")
    instances: int = _flag(1, "trainers of every variant, interleaved; a round's time is their mean")
    rounds: int = _flag(7, "timed steps of every variant")
    warmup_rounds: int = _flag(2, "steps of every variant before those")
    points: int = _flag(5, "places of the schedule that are measured, ≥ 2")
    max_steps: int = _flag(1000, "steps of the run that is summed up")
    pruning_end_fraction: float = _flag(0.3, "share of them at which the plan is reached")
    pruning_interval_steps: int = _trainers("pruning_interval_steps", "steps between two choices of masks")
    multiple: int = _trainers("width_multiple", "hidden and FFN widths in between are rounded to this")
    compiled: bool = _flag(False, "run our variants under torch.compile")
    with_baselines: bool = _flag(True, "measure the baselines too: two loops, and one-shot pruning")
    seed: int = _flag(0, "of weights, token ids, data order and masks")

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is unknown; nearest valid: {' or '.join(DTYPES)}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device!r} is unknown; nearest valid: cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device='cuda', but torch sees no CUDA device; use device='cpu'")
        for name, minimum in MINIMA.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} is too small; nearest valid: {minimum}")
        if self.length > (longest := self.config.max_position_embeddings):
            limit = f"the shape's max_position_embeddings={longest}"
            raise ValueError(f"length={self.length} is above {limit}; nearest valid: {longest}")

    @property
    def config(self) -> BertConfig:
        """The teacher's configuration; without dropout, which would make losses differ."""
        if self.shape not in SHAPES and not self.shape.startswith("{"):
            raise ValueError(f"shape={self.shape!r} is unknown; nearest valid: {', '.join(SHAPES)}, or a JSON object")
        values = SHAPES[self.shape] if self.shape in SHAPES else json.loads(self.shape)
        return BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **values)

    @property
    def full(self) -> WidthPlan:
        """The teacher's widths."""
        return widths_of(self.config)

    @property
    def target(self) -> WidthPlan:
        """The student's widths at the end."""
        return resolve_plan(self.student, self.config, multiple=self.multiple)

    @property
    def schedule(self) -> PruningSchedule:
        """When the run that is summed up chooses masks."""
        return PruningSchedule((0.0, self.pruning_end_fraction), self.pruning_interval_steps, self.max_steps)

    @property
    def num_tokens(self) -> int:
        """Tokens a step."""
        return self.accumulation_steps * self.batch_size * self.length


@dataclass(frozen=True)
class Workload:
    """Models (stock, float32) and data that all variants of one benchmark share."""

    teacher: BertForMaskedLM
    start: BertForMaskedLM
    tokenizer: BertTokenizer
    blocks: Dataset


def make_workload(settings: BenchSettings, *, num_steps: int) -> Workload:
    """Draw models, and blocks for so many steps in one pass."""
    torch.manual_seed(settings.seed)
    config = settings.config
    teacher = BertForMaskedLM(config).eval()
    start = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=_START_NOISE)
    words = [*_SPECIAL_TOKENS, *(f"w{i}" for i in range(len(_SPECIAL_TOKENS), config.vocab_size))]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    num_blocks = num_steps * settings.accumulation_steps * settings.batch_size
    generator = np.random.default_rng(settings.seed)
    ids = generator.integers(len(_SPECIAL_TOKENS), config.vocab_size, (num_blocks, settings.length))
    ids[:, 0], ids[:, -1] = _SPECIAL_TOKENS.index("[CLS]"), _SPECIAL_TOKENS.index("[SEP]")
    blocks = Dataset.from_dict({"input_ids": ids, "example_id": np.arange(num_blocks)})
    return Workload(teacher, start, tokenizer, blocks)
