"""MiniLM and MiniLMv2: the student learns how one layer of the teacher relates tokens to each other.

Recipes of Wang et al. 2020 (arXiv 2002.10957) and 2021 (arXiv 2012.15828), from memory: students of random weights,
nothing but KL divergences between relations of the last layers. MiniLM compares the attention distributions and the
relations of the values, head by head, so both models need the same number of heads. MiniLMv2 compares queries, keys
and values each with themselves, cut anew into relation heads, so heads may differ; it takes 48 of them and, of large
teachers, a layer before the last.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ...distillation.attention_recorder import AttentionRecorder
from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from ...export.card import MethodCard
from ...files.field_checks import setting
from ...files.messages import short_repr
from ...files.strict_json import is_int
from ...models.architectures.modeling_layerwise import LayerwiseModel
from ...models.widths import WidthPlan, chosen
from ...training_args import DistillationArguments, refuse_reentrant_checkpointing
from ..conditions import other_heads
from .fresh import FRESH, FreshArguments, FreshTrainer
from .relations import relation_error

NUM_RELATION_HEADS = 48
"""MiniLMv2's for teachers of BERT-base's size."""

_PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True)
class Relations:
    """What is compared.

    Args:
        sides: term → the two of `query`, `key` and `value` that are multiplied.
        num_heads: relation heads, ≥ 1.
        teacher_layer: index into the teacher's layers.
    """

    sides: Mapping[str, tuple[str, str]]
    num_heads: int
    teacher_layer: int = -1


@dataclass
class MiniLMArguments(FreshArguments):
    """Settings of MiniLM: factors of the relations and of the masked-LM loss, and what that one trains."""

    relation_weight: float = setting(1.0, "Factor ≥ 0 of the KL of every relation.", range="[0, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_reentrant_checkpointing(self, "this method compares")


class RelationTrainer(FreshTrainer, ABC):
    """What both versions share; subclasses name the relations."""

    arguments_class: ClassVar[type[DistillationArguments]] = MiniLMArguments

    @abstractmethod
    def relations(self) -> Relations:
        """What is compared, checked against the widths of both models."""

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """Relations and masked words; arguments and return as [`DistillationMethod.make_distillation`]."""
        args: Any = self.args
        relations = self.relations()
        weights = {"mlm": args.mlm_weight} | dict.fromkeys(relations.sides, args.relation_weight)
        return RelationDistillation(
            self.model, teacher, weights=weights, kept_heads=self.matched_heads, relations=relations
        )


class MiniLMTrainer(RelationTrainer):
    """MiniLM: the last layer's attention distributions, and the relations of its values, head by head.

    The student's last layer needs as many heads as the teacher's.
    """

    method = "minilm"
    card = MethodCard(
        student="MiniLM-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{FRESH} It was distilled after the recipe of MiniLM (Wang et al. 2020, arXiv 2002.10957): attention "
        "distributions and value relations of the teacher's last layer, and masked words beside, "
        "each with its weight in the settings below.",
    )

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """The last layers are compared head by head."""
        return other_heads(chosen(plan, [-1]), chosen(teacher, [-1]))

    def relations(self) -> Relations:
        """Return and raises as [`RelationTrainer.relations`]."""
        self.check_possible(self.plan, self.full)
        sides = {"attention_relation": ("query", "key"), "value_relation": ("value", "value")}
        return Relations(sides, self.plan.layers[-1].num_attention_heads)


@dataclass
class MiniLMv2Arguments(MiniLMArguments):
    """Settings of MiniLMv2: those of MiniLM, the number of relation heads and the teacher's layer."""

    num_relation_heads: int | None = setting(
        None, "Divides heads × head size of both layers, ≥ 1; default: the largest such number up to 48.", least=1
    )
    teacher_layer: int = setting(-1, "The teacher's layer that the student's last one learns; negative from the end.")


class MiniLMv2Trainer(RelationTrainer):
    """MiniLMv2: queries, keys and values of one layer, each related to themselves, in relation heads.

    Raises:
        ValueError: a setting doesn't fit the widths, or is out of range.
    """

    arguments_class = MiniLMv2Arguments
    args: MiniLMv2Arguments
    method = "minilm_v2"
    card = MethodCard(
        student="MiniLMv2-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{FRESH} It was distilled after the recipe of MiniLMv2 (Wang et al. 2021, arXiv 2012.15828): relations "
        "of queries, of keys and of values in one of the teacher's layers, and masked words beside, "
        "each with its weight in the settings below.",
    )

    def relations(self) -> Relations:
        """Return and raises as [`RelationTrainer.relations`]."""
        num_layers = len(self.full.layers)
        layer = self.args.teacher_layer
        if not is_int(layer) or not -num_layers <= layer < num_layers:
            raise ValueError(
                f"teacher_layer={short_repr(layer)} is no index into the teacher's {num_layers} layers; -1 is the last"
            )
        sizes = self.plan.layers[-1].attention_size, self.full.layers[layer].attention_size
        sides = {f"{name}_relation": (name, name) for name in _PROJECTIONS}
        self.args.num_relation_heads = _relation_heads(self.args.num_relation_heads, sizes)
        return Relations(sides, self.args.num_relation_heads, layer)


class RelationDistillation(DistillationLoss):
    """Relations of one layer, and whatever of [`DistillationLoss`]'s terms has a weight; arguments as there.

    `weights` also name the `relations`, which are between the student's last layer and one of the teacher's.
    """

    def __init__(self, student: LayerwiseModel, teacher: FrozenTeacher, *, relations: Relations, **kwargs: Any):
        super().__init__(student, teacher, **kwargs)
        self.relations = relations
        self.sides = {
            "teacher": AttentionRecorder(teacher.fast, _PROJECTIONS, layers=[relations.teacher_layer]),
            "student": AttentionRecorder(student, _PROJECTIONS, layers=[-1]),
        }

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """Those of [`DistillationLoss.terms`] and the relations, each averaged over the tokens of the global batch.

        Arguments and return as there.
        """
        inputs = self.task.with_positions(inputs)
        with self.sides["teacher"].recording() as theirs, self.sides["student"].recording() as own:
            terms, outputs = super().terms(model, inputs, counts)
        num_tokens = counts[1].clamp(min=1).float()
        (teacher,), (student,) = (
            [dict(zip(_PROJECTIONS, layer, strict=True)) for layer in recorded] for recorded in (theirs, own)
        )
        for name, (left, right) in self.relations.sides.items():
            error = relation_error(
                (teacher[left], teacher[right]),
                (student[left], student[right]),
                num_heads=self.relations.num_heads,
                scalings=(self._scaling("teacher", left, right), self._scaling("student", left, right)),
                token_mask_BT=inputs.get("attention_mask"),
            )
            terms[name] = error / num_tokens
        return terms, outputs

    def _scaling(self, side: str, left: str, right: str) -> float:
        num_channels, scaling = self.sides[side].attention_of(0)[1:]
        # That of the model's own attention, or of the relation heads.
        return scaling if left != right else (num_channels / self.relations.num_heads) ** -0.5


def _relation_heads(asked: int | None, sizes: tuple[int, int]) -> int:
    common = math.gcd(*sizes)
    valid = [number for number in range(1, common + 1) if common % number == 0]
    if asked is None:
        return max(number for number in valid if number <= NUM_RELATION_HEADS)
    if asked not in valid:
        nearest = min(valid, key=lambda number: abs(number - asked))
        raise ValueError(
            f"num_relation_heads={short_repr(asked)} does not divide heads × head size of student and teacher, "
            f"{sizes[0]} and {sizes[1]}; nearest valid: {nearest}"
        )
    return asked
