"""Students that have the plan's widths and random weights from the first step on, with and without a teacher.

Without: [`ScratchTrainer`]. With: TinyBERT here, MiniLM in minilm.py. [`DistillationTrainer`] does all else.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import override

from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from ...distillation.vocabulary_loss import decoded_terms, decoder_of
from ...export.facts import MethodCard
from ...files.settings import setting
from ...models.architectures.architecture import PROJECTIONS
from ...models.conversion import to_student
from ...models.loading import load_encoder
from ...models.resizing import keep_layers, matched_layers, replace_parameters, spread_layers, write_plan
from ...models.widths import WidthPlan, of_architecture, widths_of
from ...training.distillation_trainer import DistillationTrainer
from ...training.pair import Origins
from ...training_args import DistillationArguments, refuse_reentrant_checkpointing

FRESH = "The student began with random weights and kept none of the teacher's."


@dataclass
class FreshArguments(DistillationArguments):
    """Settings of a student of random weights: the masked-LM loss.

    A recipe whose own terms train no prediction could not fill in a mask. The masked-LM loss is therefore trained
    beside them, through the whole student.
    """

    mlm_weight: float = setting(1.0, "Factor ≥ 0 of the masked-LM loss, nats a prediction.", range="[0, inf)")


class FreshTrainer(DistillationTrainer):
    """A trainer whose student has the plan's widths and random weights; arguments as in its base.

    Weights are drawn as BERT's are, with the deviation `initializer_range` of the configuration. Stock ModernBERT
    draws the outputs of its blocks with √(2 · layers) times less.
    """

    learning_rate_share = 0.5  # what is best for pruned students is too much for random weights (docs/results.md)
    arguments_class: ClassVar[type[DistillationArguments]] = FreshArguments
    args: FreshArguments

    def set_up_student(self) -> None:
        """Refuse what fresh weights can't be."""
        check_masked_lm(self)
        unused = getattr(self.model, "unused_if_untied", None)
        trains = {name: parameter.requires_grad for name, parameter in self.model.named_parameters() if name != unused}
        if frozen := [name for name in trains if not trains[name]]:
            raise ValueError(
                f"model has {len(frozen)} frozen parameters, such as {frozen[0]}, which would stay random; call "
                "model.requires_grad_(True) first"
            )
        whole = None if self.plan.traits.has_free_heads else self.plan.traits.head_slot
        if whole and (other := next((layer for layer in self.plan.layers if layer.head_dim != whole), None)):
            raise ValueError(
                f"student head_dim={other.head_dim}, but fresh weights have no rotary positions to choose among; "
                f"nearest valid: {whole}"
            )
        # Its heads have never seen another scale than that of their own size.
        self.model.config.softmax_head_dim = None

    def start_student(self) -> None:
        """Give the student the plan's widths and weights drawn from the run's seed."""
        # a new model of these widths, whatever was drawn before
        config = copy.deepcopy(self.model.config)
        write_plan(config, self.plan)
        torch.manual_seed(self.args.seed)
        drawn = {name: weight.detach() for name, weight in type(self.model)(config).named_parameters()}
        for name, weight in self.model.named_parameters():
            if name.startswith(f"{PROJECTIONS}."):
                # to fresh states the identity means nothing: normal, of standard deviation 1/√d
                drawn[name] = torch.empty(len(weight), self.plan.hidden_size)
                drawn[name].normal_(std=self.plan.hidden_size**-0.5)
        replace_parameters(self.model, drawn, plan=self.plan, optimizer=self.optimizer)
        # fresh heads stem from none of the teacher's: the first is compared with the first
        self.kept_heads = [torch.arange(layer.num_attention_heads) for layer in self.plan.layers]


@dataclass
class ScratchArguments(FreshArguments):
    """Settings of a student that is trained on masked words alone."""

    no_part: ClassVar = {
        "mlm_weight": "it is the only term of the loss; leave it out",
        "teacher_dtype": "the teacher isn't asked in training; leave it out",
    }


class ScratchTrainer(FreshTrainer):
    """Train a student of the plan's widths from random weights on masked words; the teacher only lends its widths.

    Training makes no forward pass of the teacher, so a step is cheaper than other methods'; budgets are compared in
    tokens. Evaluations measure the discrepancy to it, as for all methods.
    """

    method = "scratch"
    allows_fewer_layers = True
    arguments_class = ScratchArguments
    card = MethodCard(
        student="From-scratch counterpart",
        made="trained from random weights on masked words, as a counterpart of {teacher}; nothing was distilled",
        how=f"{FRESH} It was trained on masked words alone. What is called its teacher here lent it depth and "
        "vocabulary, and is what it is compared with.",
        tags=(),
    )

    def start_from(
        self, model: str | PreTrainedModel, teacher_model: str | PreTrainedModel | None, plan: WidthPlan | None
    ) -> Origins:
        """Leave out as many layers as the plan lacks; arguments and return as [`DistillationTrainer.start_from`]."""
        if isinstance(model, str):
            model = load_encoder(model, token=self.args.hub_token, argument="model")
        plan = plan or self.plan_of(self.args, model.config)
        num_kept, num_layers = len(plan.layers), len(widths_of(model.config).layers)
        if num_kept == num_layers:
            return model, teacher_model, plan
        whole, kept = to_student(model, argument="model"), spread_layers(num_kept, num_layers)
        self.matched_layers = matched_layers(kept, num_layers)
        student = keep_layers(whole, kept)
        return student, teacher_model or whole, of_architecture(plan, widths_of(student.config))

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """The masked-LM loss alone; arguments and return as [`DistillationTrainer.make_distillation`]."""
        matched: Any = {"kept_heads": self.matched_heads, "matched_layers": self.matched_layers}
        return OwnLoss(self.model, teacher, weights={"mlm": 1.0}, **matched)


class OwnLoss(DistillationLoss):
    """The student's own masked-LM loss; no forward pass of the teacher. Arguments as [`DistillationLoss`]."""

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """The masked-LM loss `mlm` of one batch; arguments and return as [`DistillationLoss.terms`]."""
        inputs = self.task.with_positions(inputs)
        outputs = model(**self.task.model_inputs(inputs, self.student), skip_decoder=True)
        with self.autocast():
            head = decoder_of(self.student.decoder_layer, outputs["decoder_inputs"])
        # Chunk by chunk in bounded memory, as all methods decode; compared with itself, as there is no teacher.
        own, _ = decoded_terms(head, head, self.task.labels(inputs), weights=(self.weights["mlm"], 0.0))
        return {"mlm": own / counts[0].clamp(min=1).float()}, outputs


@dataclass
class TinyBertArguments(FreshArguments):
    """Settings of TinyBERT's general distillation: a factor for each term."""

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
    """TinyBERT's general distillation: hidden states, embeddings and attention scores, layer by layer.

    Recipe of Jiao et al. 2020 (arXiv 1909.10351), from memory. A student of random weights learns by mean squared
    errors of weight 1: of the embeddings, of every layer's hidden states (through learnable projections), and of every
    layer's attention scores before the softmax. There is no term of the predictions, which brought nothing in the
    paper at this stage. Layers are mapped one to one here, because students have the teacher's depth. The paper has
    one projection for the hidden states of all layers; here each layer has its own, as in HomoDistil. The student
    needs as many heads as the teacher.
    """

    method = "tinybert"
    arguments_class = TinyBertArguments
    card = MethodCard(
        student="TinyBERT-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{FRESH} It was distilled after the recipe of TinyBERT's general distillation (Jiao et al. 2020, arXiv "
        "1909.10351): the teacher's embeddings, hidden states and attention scores, and masked words beside, "
        "each with its weight in `facts.json`.",
    )

    @override
    def set_up_student(self) -> None:
        super().set_up_student()
        self.check_possible(self.plan, self.full)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """Attention scores are compared head by head."""
        return super().impossible_reason(plan, teacher) or other_heads(plan, teacher)


def check_masked_lm(trainer: DistillationTrainer) -> None:
    """Refuse, by a ValueError, a model with another head than the masked-LM one."""
    if trainer.distillation.task.name != "mlm":
        raise ValueError(
            f"method={trainer.method!r} trains masked-LM students, model is a {type(trainer.model).__name__}; pass a "
            "masked-LM model, or use HomoDistilTrainer"
        )


def other_heads(plan: WidthPlan, teacher: WidthPlan) -> str | None:
    """Why two models' heads can't be compared one by one, or None where each layer has as many in both."""
    heads = [[layer.num_attention_heads for layer in widths.layers] for widths in (plan, teacher)]
    if heads[0] == heads[1]:
        return None
    return (
        f"the student's heads {heads[0]} are not as many as the teacher's {heads[1]}, and this method compares them "
        "one by one; choose a plan with the teacher's number of heads, such as a budget that names it: "
        f"student='macs=0.25,num_attention_heads={max(heads[1])}'"
    )
