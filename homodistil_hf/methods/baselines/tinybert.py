"""TinyBERT's general distillation: hidden states, embeddings and attention scores, layer by layer.

Recipe of Jiao et al. 2020 (arXiv 1909.10351), from memory: a student of random weights, mean squared errors of the
embeddings, of every layer's hidden states (through learnable projections) and of every layer's attention scores before
the softmax, weights 1; no term of the predictions, as the paper found it to bring nothing at this stage. Its layers
are mapped one to one here, because students have the teacher's depth; the paper writes one matrix for the hidden
states of all layers, here each layer has its own, as HomoDistil has them.
"""

from typing import Any

from transformers import PreTrainedModel

from ...export.card import MethodCard
from ...models.widths import WidthPlan
from ...training_args import HomoDistilTrainingArguments
from ..conditions import check_recordable, other_heads
from .fresh import FRESH, FreshTrainer, MlmTrains


class TinyBertTrainer(FreshTrainer):
    """Distil into a student of the plan's widths and random weights by TinyBERT's general distillation.

    The recipe trains no prediction, so without more the student could not fill in a mask. The masked-LM loss is
    therefore trained beside it, by default through the whole student, which is the stronger opponent; with
    `mlm_trains="head"` only the masked-LM head and the word embeddings tied to it learn from it.

    Its weights are factors ≥ 0; `attention_weight`'s term, of a teacher with large attention scores, can be most of
    the loss. Those in `args` are not used. The student needs as many heads as the teacher.
    """

    method = "tinybert"
    card = MethodCard(
        student="TinyBERT-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{FRESH} It was distilled after the recipe of TinyBERT's general distillation (Jiao et al. 2020, arXiv "
        "1909.10351): the teacher's embeddings, hidden states and attention scores, and masked words beside, "
        "each with its weight in the settings below.",
    )

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        mlm_weight: float = 1.0,
        mlm_trains: MlmTrains = "student",
        hidden_weight: float = 1.0,
        embedding_weight: float = 1.0,
        attention_weight: float = 1.0,
        **kwargs: Any,
    ):
        check_recordable(args)
        weights = {"hidden": hidden_weight, "embedding": embedding_weight, "attention": attention_weight}
        weights["mlm"] = mlm_weight
        super().__init__(model, args, loss_weights=weights, mlm_trains=mlm_trains, **kwargs)
        self.method_settings = {f"{name}_weight": weight for name, weight in weights.items()}
        self.method_settings |= {"mlm_trains": mlm_trains}
        self.check_possible(self.plan, self.full)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """Attention scores are compared head by head."""
        return other_heads(plan, teacher)
