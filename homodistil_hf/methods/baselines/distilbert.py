"""DistilBERT: some layers of the teacher at their full width, trained on words, soft predictions and directions.

Recipe of Sanh et al. 2019 (arXiv 1910.01108) and its public script, from memory: layers spread evenly over the
teacher's, first and last included; 2·MLM + 5·soft KL at temperature 2 + 1·cosine of the last hidden states. Two things
differ here. The KL is taken at the masked positions, as in all methods of this package, where the script takes it at
all tokens unless told otherwise; and the student keeps the segment embeddings, as stock BERT has them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from ...distillation.vocabulary_loss import Decoder, decoded_terms, decoder_of
from ...export.card import MethodCard
from ...files.messages import short_repr
from ...models.conversion import to_student
from ...models.loading import load_encoder
from ...models.resizing import keep_layers
from ...models.widths import WidthPlan, widths_of
from ...plans.fewer_layers import shallow_plan
from ...training.distillation_trainer import DistillationTrainer
from ...training_args import LOSS_TERMS, HomoDistilTrainingArguments
from ..conditions import check_loss_weights, check_masked_lm, with_settings
from .relations import cosine_error


class DistilBertTrainer(DistillationTrainer):
    """Distil into as many of the teacher's layers as have the encoder MACs of the plan that is asked for.

    Nothing is pruned. All else, from data to export, is [`DistillationTrainer`]'s; the loss weights in `args` are not
    used.

    Args:
        model: what layers are left out of.
        args: the run's settings; `student` says how many encoder MACs to match.
        teacher: who the student learns from. Default: all of `model`.
        mlm_weight: factor ≥ 0 of the masked-LM loss.
        soft_kl_weight: factor ≥ 0 of the KL at `temperature`.
        cosine_weight: factor ≥ 0 of the cosine term.
        temperature: > 0; both models' logits are divided by it, and the KL multiplied by its square.
        plan: what `student` names, where that is resolved already.
        kwargs: as in [`DistillationTrainer`].

    Raises:
        ValueError: no number of layers has those MACs, the student is a latency budget, or a setting is out of range.
    """

    has_all_layers = False
    method = "distilbert"
    card = MethodCard(
        student="DistilBERT-style student",
        made="made from whole layers of {teacher} and distilled from it",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        "evenly over its depth and have their full width. It was then distilled after the recipe of DistilBERT (Sanh "
        "et al. 2019, arXiv 1910.01108): masked words, the teacher's softened predictions and the direction of its "
        "last hidden states, each with its weight in the settings below.",
    )

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        teacher: str | PreTrainedModel | None = None,
        mlm_weight: float = 2.0,
        soft_kl_weight: float = 5.0,
        cosine_weight: float = 1.0,
        temperature: float = 2.0,
        plan: WidthPlan | None = None,
        **kwargs: Any,
    ):
        weights = {"mlm": mlm_weight, "soft_kl": soft_kl_weight, "cosine": cosine_weight}
        check_loss_weights(weights)
        if not temperature > 0:
            raise ValueError(f"temperature={short_repr(temperature)} is not above 0; the recipe's is 2.0")
        self.loss_weights, self.temperature = weights, temperature
        self.method_settings = {f"{name}_weight": value for name, value in weights.items()}
        self.method_settings |= {"temperature": temperature}
        whole = to_student(load_encoder(model, token=args.hub_token) if isinstance(model, str) else model)
        asked, full = plan or self.plan_of(args, whole.config), widths_of(whole.config)
        self.check_possible(asked, full)
        student = keep_layers(whole, shallow_plan(asked, full) or ())
        plan = widths_of(student.config)
        unused = {f"{name}_weight": 0.0 for name in LOSS_TERMS}
        args = with_settings(args, student=plan.to_json(), **unused)
        super().__init__(student, args, teacher=teacher or whole, plan=plan, **kwargs)
        check_masked_lm(self)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """No number of the teacher's layers may make up the encoder MACs of the plan."""
        if shallow_plan(plan, teacher) is not None:
            return None
        return (
            f"no number of the teacher's {len(teacher.layers)} layers has the encoder MACs of the plan "
            f"{plan.to_json()} within 3 %; ask for a share of the MACs that whole layers have, such as macs=0.5"
        )

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """DistilBERT's three terms; arguments and return as [`DistillationTrainer.make_distillation`]."""
        weights = dict.fromkeys(LOSS_TERMS, 0.0) | self.loss_weights
        distillation = SoftDistillation(self.model, teacher, weights=weights, kept_heads=self.matched_heads)
        distillation.temperature = self.temperature
        return distillation


class SoftDistillation(DistillationLoss):
    """Masked words, softened predictions, direction of the last hidden states; arguments as [`DistillationLoss`].

    The student has the teacher's hidden size, and `weights` also name `soft_kl` and `cosine`.
    """

    temperature = 2.0
    """Of the soft predictions, > 0."""

    def terms(
        self,
        model: nn.Module,
        inputs: Inputs,
        counts: torch.Tensor,
        *,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> tuple[Terms, Any]:
        """`mlm`, `kl` (at temperature 1, for the log only), `soft_kl` and `cosine`, unweighted.

        Arguments and return as [`DistillationLoss.terms`].
        """
        inputs = self.task.with_positions(inputs)
        num_predictions, num_tokens, _ = counts.clamp(min=1).float().unbind()
        forward: dict[str, Any] = self.task.model_inputs(inputs, self.student, self.teacher.exact)
        forward |= {"skip_decoder": True, "output_hidden_states": True}
        teacher = self.teacher(**forward)
        student = model(**forward)
        with autocast():
            own, kl = self._prediction_terms(student, teacher, inputs)
            soft_kl = self._soft_kl(student, teacher, self.task.labels(inputs))
        cosine = cosine_error(teacher.hidden_states[-1], student.hidden_states[-1], inputs.get("attention_mask"))
        terms = {"mlm": own / num_predictions, "kl": kl / num_predictions}
        return terms | {"soft_kl": soft_kl / num_predictions, "cosine": cosine / num_tokens}, student

    def _soft_kl(self, student: Any, teacher: Any, labels_M: torch.Tensor) -> torch.Tensor:
        own_head, fast = self.student.decoder_layer, self.teacher.fast.decoder_layer
        _, kl = decoded_terms(
            self._softened(decoder_of(own_head, student["decoder_inputs"])),
            self._softened(decoder_of(fast, teacher["decoder_inputs"], dtype=self.teacher.dtype)),
            labels_M,
            weights=(0.0, self.weights["soft_kl"]),
        )
        return kl * self.temperature**2

    def _softened(self, decoder: Decoder) -> Decoder:
        bias = None if decoder.bias_V is None else decoder.bias_V / self.temperature
        return decoder._replace(states_MH=decoder.states_MH / self.temperature, bias_V=bias)
