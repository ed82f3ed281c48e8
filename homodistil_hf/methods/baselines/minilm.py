"""MiniLM and MiniLMv2: the student learns how one layer of the teacher relates tokens to each other.

Recipes of Wang et al. 2020 (arXiv 2002.10957) and 2021 (arXiv 2012.15828), from memory: students of random weights,
nothing but KL divergences between relations of the last layers ([`relation_error`]). MiniLM compares the attention
distributions and the relations of the values, head by head, so both models need the same number of heads. MiniLMv2
compares queries, keys and values each with themselves, cut anew into 48 relation heads, so the models' heads may
differ. Of large teachers it takes a layer before the last.

Shapes: B batch, T tokens, A channels of all heads side by side, N heads, D channels of one head.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override

from ...distillation.attention_recorder import AttentionRecorder
from ...distillation.losses import exact_dtype
from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from ...export.facts import MethodCard
from ...files.messages import short_repr
from ...files.settings import setting
from ...files.strict_json import is_int
from ...models.architectures import architecture_of
from ...models.architectures.modeling_layerwise import LayerwiseModel
from ...models.chunks import slices
from ...models.widths import WidthPlan, chosen, widths_of
from ...training_args import DistillationArguments, refuse_reentrant_checkpointing
from .fresh import FRESH, FreshArguments, FreshTrainer, other_heads

NUM_RELATION_HEADS = 48
"""MiniLMv2's for teachers of BERT-base's size."""

Sides = tuple[torch.Tensor, torch.Tensor]
CHUNK_ELEMENTS = 1 << 22
"""Relations of one chunk of rows: their float32 temporaries stay at 16 MB each, if one row has no more."""
_PROJECTIONS = ("query", "key", "value")


@dataclass
class MiniLMArguments(FreshArguments):
    """Settings of MiniLM: factors of the relations and of the masked-LM loss."""

    relation_weight: float = setting(1.0, "Factor ≥ 0 of the KL of every relation.", range="[0, inf)")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_reentrant_checkpointing(self, "this method compares")


class RelationTrainer(FreshTrainer):
    """What both versions share; subclasses name the relations."""

    arguments_class: ClassVar[type[DistillationArguments]] = MiniLMArguments

    def related(
        self, teacher: FrozenTeacher, sides: Mapping[str, tuple[str, str]], *, num_heads: int, teacher_layer: int = -1
    ) -> DistillationLoss:
        """The loss of relations and masked words; arguments as [`RelationDistillation`]."""
        args: Any = self.args
        return RelationDistillation(
            self.model,
            teacher,
            weights={"mlm": args.mlm_weight} | dict.fromkeys(sides, args.relation_weight),
            kept_heads=self.matched_heads,
            relations=sides,
            num_heads=num_heads,
            teacher_layer=teacher_layer,
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
        "each with its weight in `facts.json`.",
    )

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """The last layers are compared head by head."""
        return super().impossible_reason(plan, teacher) or _other_last_heads(plan, teacher)

    @override
    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        # the teacher may be another model than the one that the student's form is of
        if (reason := _other_last_heads(self.plan, widths_of(teacher.exact.config))) is not None:
            raise ValueError(f"method={self.method!r} is impossible for this student: {reason}")
        architecture = architecture_of(teacher.exact.config)
        if architecture.scores_have_positions:
            raise ValueError(
                f"method={self.method!r} compares products of queries and keys, but a {architecture.model_type} adds "
                "positions to them; use method='minilm_v2', which relates queries and keys each to themselves"
            )
        sides = {"attention_relation": ("query", "key"), "value_relation": ("value", "value")}
        return self.related(teacher, sides, num_heads=self.plan.layers[-1].num_attention_heads)


def _other_last_heads(plan: WidthPlan, teacher: WidthPlan) -> str | None:
    return other_heads(*(chosen(one, [-1]) for one in (plan, teacher)))


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
        "each with its weight in `facts.json`.",
    )

    @override
    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        full = widths_of(teacher.exact.config)
        num_layers = len(full.layers)
        layer = self.args.teacher_layer
        if not is_int(layer) or not -num_layers <= layer < num_layers:
            raise ValueError(
                f"teacher_layer={short_repr(layer)} is no index into the teacher's {num_layers} layers; -1 is the last"
            )
        sizes = self.plan.layers[-1].attention_size, full.layers[layer].attention_size
        sides = {f"{name}_relation": (name, name) for name in _PROJECTIONS}
        # a number of heads that divides both sizes divides their greatest common divisor
        common = math.gcd(*sizes)
        valid = [number for number in range(1, common + 1) if common % number == 0]
        asked = self.args.num_relation_heads
        if asked is None:
            asked = max(number for number in valid if number <= NUM_RELATION_HEADS)
        if asked not in valid:
            nearest = min(valid, key=lambda number: abs(number - asked))
            raise ValueError(
                f"num_relation_heads={short_repr(asked)} does not divide heads × head size of student and teacher, "
                f"{sizes[0]} and {sizes[1]}; nearest valid: {nearest}"
            )
        self.args.num_relation_heads = asked
        return self.related(teacher, sides, num_heads=asked, teacher_layer=layer)


class RelationDistillation(DistillationLoss):
    """Relations of one layer, and whatever of [`DistillationLoss`]'s terms has a weight; arguments as there.

    `weights` also name the `relations`: term → the two of `query`, `key` and `value` that are multiplied, in
    `num_heads` relation heads. They are between the student's last layer and `teacher_layer` of the teacher's.
    """

    def __init__(
        self,
        student: LayerwiseModel,
        teacher: FrozenTeacher,
        *,
        relations: Mapping[str, tuple[str, str]],
        num_heads: int,
        teacher_layer: int = -1,
        **kwargs: Any,
    ):
        super().__init__(student, teacher, **kwargs)
        self.relations, self.num_heads = relations, num_heads
        self.sides = {
            "teacher": AttentionRecorder(teacher.fast, _PROJECTIONS, layers=[teacher_layer]),
            "student": AttentionRecorder(student, _PROJECTIONS, layers=[-1]),
        }

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """Those of [`DistillationLoss.terms`] and the relations, each averaged over the tokens of the global batch.

        Arguments and return as there.
        """
        inputs = self.task.with_positions(inputs)
        # the forward passes of the other terms are the ones that are recorded
        with self.sides["teacher"].recording() as theirs, self.sides["student"].recording() as own:
            terms, outputs = super().terms(model, inputs, counts)
        num_tokens = counts[1].clamp(min=1).float()
        # one layer a side: its query, key and value by name
        (teacher,), (student,) = (
            [dict(zip(_PROJECTIONS, layer, strict=True)) for layer in recorded] for recorded in (theirs, own)
        )
        for name, (left, right) in self.relations.items():
            error = relation_error(
                (teacher[left], teacher[right]),
                (student[left], student[right]),
                num_heads=self.num_heads,
                scalings=(self._scaling("teacher", left, right), self._scaling("student", left, right)),
                token_mask_BT=inputs.get("attention_mask"),
            )
            terms[name] = error / num_tokens
        return terms, outputs

    def _scaling(self, side: str, left: str, right: str) -> float:
        num_channels, scaling = self.sides[side].attention_of(0)[1:]
        # That of the model's own attention, or of the relation heads.
        return scaling if left != right else (num_channels / self.num_heads) ** -0.5


def relation_error(
    teacher: Sides,
    student: Sides,
    *,
    num_heads: int,
    scalings: tuple[float, float],
    token_mask_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL between two models' relations of tokens, averaged over heads and summed over tokens.

    Σ_t 1/N Σ_n KL(R_t[n, t] ‖ R_s[n, t]) with R = softmax(L·Rᵀ·scaling) over the tokens (MiniLM, section 3.1 and 3.2:
    queries and keys, values and values; MiniLMv2, section 3.1: queries, keys and values each with themselves).

    A few texts are compared at a time, and their gradients computed at once. So no N × T × T tensor is kept for the
    backward pass. Padding has no relations and doesn't count. The teacher gets no gradient.

    Args:
        teacher: `(L, R)`, each `(B, T, A)`, all heads side by side.
        student: likewise; A may differ.
        num_heads: N, divides both A.
        scalings: of the teacher's and of the student's products.
        token_mask_BT: 1 = token, 0 = padding; default: no padding.

    Returns:
        `torch.Tensor`: scalar, float32 or float64.

    Example:
    ```python
    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> float(relation_error((states, states), (states, states), num_heads=1, scalings=(1.0, 1.0)))
    0.0
    >>> flat = torch.zeros(1, 2, 2)
    >>> round(float(relation_error((states, states), (flat, flat), num_heads=1, scalings=(1.0, 1.0))), 4)
    0.2219

    ```
    """
    return _RelationError.apply(*student, *(side.detach() for side in teacher), token_mask_BT, num_heads, scalings)


class _RelationError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        left_BTA: torch.Tensor,
        right_BTA: torch.Tensor,
        teacher_left: torch.Tensor,
        teacher_right: torch.Tensor,
        mask_BT: torch.Tensor | None,
        num_heads: int,
        scalings: tuple[float, float],
    ) -> torch.Tensor:
        dtype = exact_dtype(left_BTA)
        total = torch.zeros((), dtype=dtype, device=left_BTA.device)
        gradients = [torch.empty_like(side) for side in (left_BTA, right_BTA)]
        batch, tokens = left_BTA.shape[:2]
        with torch.autocast(left_BTA.device.type, enabled=False):
            # A few texts at a time: both models' relations, their KL, and at once the gradient of the student's sides.
            for rows in slices(batch, CHUNK_ELEMENTS // (num_heads * tokens * tokens)):
                mask = None if mask_BT is None else mask_BT[rows].bool()
                left, right, t_left, t_right = (  # (B, N, T, D)
                    side[rows].to(dtype).unflatten(-1, (num_heads, -1)).transpose(1, 2)
                    for side in (left_BTA, right_BTA, teacher_left, teacher_right)
                )
                log_teacher = _log_relations(t_left, t_right, scalings[0], mask)
                log_student = _log_relations(left, right, scalings[1], mask)
                # relations of padding don't count, (B, 1, T, 1); relations to padding are 0 by the softmax
                counted = 1.0 if mask is None else mask[:, None, :, None]
                p_teacher = log_teacher.exp() * counted
                total += (p_teacher * (log_teacher - log_student)).sum() / num_heads
                # d KL = p_s − p_t, in rows that count.
                gradient_BNTT = (log_student.exp() * counted - p_teacher) * (scalings[1] / num_heads)
                # of L·Rᵀ: G·R for the left side, Gᵀ·L for the right
                gradients[0][rows] = _side_by_side(gradient_BNTT @ right)
                gradients[1][rows] = _side_by_side(gradient_BNTT.transpose(2, 3) @ left)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # both gradients are complete but for the factor of the loss
        left_BTA, right_BTA = ctx.saved_tensors
        return left_BTA * gradient, right_BTA * gradient, None, None, None, None, None


def _log_relations(
    left_BNTD: torch.Tensor, right_BNTD: torch.Tensor, scaling: float, mask_BT: torch.Tensor | None
) -> torch.Tensor:
    products_BNTT = (left_BNTD * scaling) @ right_BNTD.transpose(2, 3)
    if mask_BT is not None:
        # Not −∞: the two models' log relations to padding must differ by 0, not by NaN.
        products_BNTT.masked_fill_(~mask_BT[:, None, None, :], torch.finfo(products_BNTT.dtype).min)
    return products_BNTT.log_softmax(-1)


def _side_by_side(states_BNTD: torch.Tensor) -> torch.Tensor:
    return states_BNTD.transpose(1, 2).flatten(2)
