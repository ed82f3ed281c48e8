"""TinyBERT's general distillation: hidden states, embeddings and attention scores, layer by layer.

Recipe of Jiao et al. 2020 (arXiv 1909.10351), from memory. A student of random weights learns by mean squared errors
of weight 1: of the embeddings, of every layer's hidden states (through learnable projections), and of every layer's
attention scores before the softmax. There is no term of the predictions, which brought nothing in the paper at this
stage. Layers are mapped one to one here, because students have the teacher's depth. The paper has one projection for
the hidden states of all layers; here each layer has its own, as in HomoDistil.
"""

from dataclasses import dataclass

from ...export.method_card import MethodCard
from ...files.field_checks import setting
from ...models.widths import WidthPlan
from ...training_args import refuse_reentrant_checkpointing
from .fresh import FRESH, FreshArguments, FreshTrainer, other_heads


@dataclass
class TinyBertArguments(FreshArguments):
    """Settings of TinyBERT's general distillation: a factor for each term, and what the masked-LM loss trains."""

    hidden_weight: float = setting(
        1.0, "Factor ≥ 0 of the hidden-state errors, mean square, summed over layers.", range="[0, inf)"
    )
    embedding_weight: float = setting(1.0, "Factor ≥ 0 of the embedding error, mean square.", range="[0, inf)")
    attention_weight: float = setting(
        1.0,
        "Factor ≥ 0 of the attention-score errors, mean square, summed over layers; large scores make it most of the "
        "loss.",
        range="[0, inf)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_reentrant_checkpointing(self, "this method compares")


class TinyBertTrainer(FreshTrainer):
    """Distil into a student of the plan's widths and random weights by TinyBERT's general distillation.

    The student needs as many heads as the teacher.
    """

    method = "tinybert"
    arguments_class = TinyBertArguments
    card = MethodCard(
        student="TinyBERT-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{FRESH} It was distilled after the recipe of TinyBERT's general distillation (Jiao et al. 2020, arXiv "
        "1909.10351): the teacher's embeddings, hidden states and attention scores, and masked words beside, "
        "each with its weight in the settings below.",
    )

    def set_up_student(self) -> None:
        """Also refuse other heads than the teacher's."""
        super().set_up_student()
        self.check_possible(self.plan, self.full)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """Attention scores are compared head by head."""
        return super().impossible_reason(plan, teacher) or other_heads(plan, teacher)
