"""The student without a teacher: the plan's widths, random weights, the masked-LM loss alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ...distillation.objective import DistillationLoss, Terms
from ...distillation.tasks import Inputs
from ...distillation.teacher import FrozenTeacher
from ...distillation.vocabulary_loss import decoded_terms, decoder_of
from ...export.method_card import MethodCard
from ...models.conversion import to_student
from ...models.loading import load_encoder
from ...models.widths import WidthPlan, widths_of
from ...training.pair import Start
from ..fewer_layers import Layers, start_shallow
from .fresh import FRESH, FreshArguments, FreshTrainer


@dataclass
class ScratchArguments(FreshArguments):
    """Settings of a student that is trained on masked words alone."""

    no_part: ClassVar = {
        "mlm_weight": "it is the only term of the loss; leave it out",
        "mlm_trains": "there is no other term that could train the student; leave it out",
        "teacher_dtype": "the teacher isn't asked in training; leave it out",
    }


class ScratchTrainer(FreshTrainer):
    """Train a student of the plan's widths from random weights on masked words; the teacher only lends its widths.

    Training makes no forward pass of the teacher, so a step is cheaper than other methods'; budgets are compared in
    tokens. Evaluations measure the discrepancy to it, as for all methods.
    """

    method = "scratch"
    drops_layers = True
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
    ) -> Start:
        """Leave out as many layers as the plan lacks; arguments and return as [`DistillationTrainer.start_from`]."""
        if isinstance(model, str):
            model = load_encoder(model, token=self.args.hub_token, argument="model")
        plan = plan or self.plan_of(self.args, model.config)
        if len(plan.layers) == len(widths_of(model.config).layers):
            return Start(model, teacher_model, plan)
        found = start_shallow(to_student(model, argument="model"), self.args, layers=Layers(None), plan=plan)
        self.matched_layers = found.matched_layers
        return Start(found.student, teacher_model or found.whole, found.plan)

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
