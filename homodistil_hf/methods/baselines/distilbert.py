"""DistilBERT: some layers of the teacher at their full width, trained on words, soft predictions and directions.

Recipe of Sanh et al. 2019 (arXiv 1910.01108) and its public script, from memory: layers spread evenly over the
teacher's, first and last included; 2·MLM + 5·soft KL at temperature 2 + 1·cosine of the last hidden states. Two things
differ here. The KL is taken at the masked positions, as in all methods of this package; the script takes it at all
tokens by default. And the student keeps its teacher's segment embeddings.

Shapes: B batch, T tokens, H hidden, M masked positions, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...distillation.losses import cosine_error
from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from ...distillation.vocabulary_loss import Decoder, decoded_terms, decoder_of
from ...export.facts import MethodCard
from ...files.settings import setting
from ...models.conversion import to_student
from ...models.cost import encoder_macs
from ...models.loading import load_encoder
from ...models.resizing import keep_layers, spread_layers
from ...models.widths import WidthPlan, chosen, widths_of
from ...plans.budgets import TOLERANCE
from ...training.distillation_trainer import DistillationTrainer
from ...training.pair import Origins, check_alike
from ...training_args import DistillationArguments
from .fresh import check_masked_lm


@dataclass
class DistilBertArguments(DistillationArguments):
    """Settings of DistilBERT: a factor for each term, and the temperature."""

    mlm_weight: float = setting(2.0, "Factor ≥ 0 of the masked-LM loss, nats a prediction.", range="[0, inf)")
    soft_kl_weight: float = setting(5.0, "Factor ≥ 0 of the KL at temperature, nats a prediction.", range="[0, inf)")
    cosine_weight: float = setting(1.0, "Factor ≥ 0 of the cosine term of the last hidden states.", range="[0, inf)")
    temperature: float = setting(
        2.0, "Divides both models' logits, > 0; the KL is multiplied by its square.", range="(0, inf)"
    )


class DistilBertTrainer(DistillationTrainer):
    """Distil into as many of the teacher's layers as have the encoder MACs of the plan that is asked for.

    Nothing is pruned. All else, from data to export, is [`DistillationTrainer`]'s.

    Raises:
        ValueError: no number of layers has those MACs, the student is a latency budget, or a setting is out of range.
    """

    starts_with_all_layers = False
    method = "distilbert"
    arguments_class = DistilBertArguments
    args: DistilBertArguments
    card = MethodCard(
        student="DistilBERT-style student",
        made="made from whole layers of {teacher} and distilled from it",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        "evenly over its depth and have their full width. It was then distilled after the recipe of DistilBERT (Sanh "
        "et al. 2019, arXiv 1910.01108): masked words, the teacher's softened predictions and the direction of its "
        "last hidden states, each with its weight in `facts.json`.",
    )

    def start_from(
        self, model: str | PreTrainedModel, teacher_model: str | PreTrainedModel | None, plan: WidthPlan | None
    ) -> Origins:
        """Keep whole layers; arguments and return as [`DistillationTrainer.start_from`]."""
        args = self.args
        if isinstance(model, str):
            model = load_encoder(model, token=args.hub_token, argument="model")
        whole = to_student(model, argument="model")
        asked, full = plan or self.plan_of(args, whole.config), widths_of(whole.config)
        self.check_possible(asked, full)
        student = keep_layers(whole, shallow_plan(asked, full) or ())
        plan = widths_of(student.config)
        args.student = plan.to_json()
        return student, teacher_model or whole, plan

    def set_up_student(self) -> None:
        """Refuse a model of another task."""
        check_masked_lm(self)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """No number of the teacher's layers may make up the encoder MACs of the plan, or another than it names."""
        layers = shallow_plan(plan, teacher)
        # a plan with the teacher's number of layers leaves it to the MACs how many stay
        if layers is not None and len(plan.layers) in (len(layers), len(teacher.layers)):
            return None
        if layers is not None:
            return (
                f"the plan has {len(plan.layers)} layers, but its encoder MACs are those of {len(layers)} whole ones, "
                "which this method keeps; leave the number of layers out"
            )
        whole = WidthPlan(teacher.hidden_size, teacher.layers[: len(teacher.layers) // 2 or 1])
        return (
            f"no number of the teacher's {len(teacher.layers)} layers has the encoder MACs of the plan "
            f"{plan.to_json()} within 3 %; name whole layers, such as {whole.to_json(of_layers=len(teacher.layers))}"
        )

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """DistilBERT's three terms; arguments and return as [`DistillationTrainer.make_distillation`]."""
        check_alike(teacher.exact, self.model, ("hidden_size",))
        distillation = SoftDistillation(
            self.model, teacher, weights=self.args.loss_weights(), kept_heads=self.matched_heads
        )
        distillation.temperature = self.args.temperature
        return distillation


class SoftDistillation(DistillationLoss):
    """Masked words, softened predictions, direction of the last hidden states; arguments as [`DistillationLoss`].

    The student has the teacher's hidden size, and `weights` also name `soft_kl` and `cosine`.
    """

    temperature = 2.0
    """Of the soft predictions, > 0."""

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """`mlm`, `kl` (at temperature 1, for the log only), `soft_kl` and `cosine`, unweighted.

        Arguments and return as [`DistillationLoss.terms`].
        """
        inputs = self.task.with_positions(inputs)
        num_predictions, num_tokens, _ = counts.clamp(min=1).float().unbind()
        forward: dict[str, Any] = self.task.model_inputs(inputs, self.student, self.teacher.exact)
        forward |= {"skip_decoder": True, "output_hidden_states": True}
        teacher = self.teacher(**forward)
        student = model(**forward)
        with self.autocast():
            # logits twice: as they are, for MLM and the logged KL, and softened
            own, kl = self._prediction_terms(student, teacher, inputs)
            # weights (0, w): the cross-entropy of softened logits has no part in the loss
            own_head, fast = self.student.decoder_layer, self.teacher.fast.decoder_layer
            _, soft_kl = decoded_terms(
                self._softened(decoder_of(own_head, student["decoder_inputs"])),
                self._softened(decoder_of(fast, teacher["decoder_inputs"], dtype=self.teacher.dtype)),
                self.task.labels(inputs),
                weights=(0.0, self.weights["soft_kl"]),
            )
            # gradients of softened predictions are 1/T² as large
            soft_kl = soft_kl * self.temperature**2
        cosine = cosine_error(teacher.hidden_states[-1], student.hidden_states[-1], inputs.get("attention_mask"))
        terms = {"mlm": own / num_predictions, "kl": kl / num_predictions}
        return terms | {"soft_kl": soft_kl / num_predictions, "cosine": cosine / num_tokens}, student

    def _softened(self, decoder: Decoder) -> Decoder:
        # (h Wᵀ + b) / T = (h / T) Wᵀ + b / T: the matrix, the largest of them, stays as it is
        bias = None if decoder.bias_V is None else decoder.bias_V / self.temperature
        return decoder._replace(states_MH=decoder.states_MH / self.temperature, bias_V=bias)


def shallow_plan(plan: WidthPlan, teacher: WidthPlan) -> tuple[int, ...] | None:
    """Return the layers of a teacher, rising indices, that cost the encoder MACs of a narrow plan.

    None if no number of layers comes within `TOLERANCE`.

    Example:
    ```python
    >>> from homodistil_hf.models.widths import LayerWidths
    >>> teacher = WidthPlan.uniform(384, 6, LayerWidths(12, 32, 1536))
    >>> shallow_plan(WidthPlan.uniform(264, 6, LayerWidths(12, 22, 1112)), teacher)
    (0, 2, 5)
    >>> shallow_plan(WidthPlan.uniform(192, 6, LayerWidths(12, 16, 704)), teacher) is None
    True

    ```
    """
    asked = encoder_macs(plan)
    choices = [spread_layers(num_kept, len(teacher.layers)) for num_kept in range(1, len(teacher.layers) + 1)]
    # the number of whole layers whose MACs are nearest, if they are near enough
    best = min(choices, key=lambda layers: abs(encoder_macs(chosen(teacher, layers)) - asked))
    fits = abs(encoder_macs(chosen(teacher, best)) - asked) <= TOLERANCE * asked
    return best if fits else None
