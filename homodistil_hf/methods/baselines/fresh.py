"""Students that have the plan's widths and random weights from the first step on: the base of their methods.

[`DistillationTrainer`] does everything else, from data to export.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ...files.field_checks import setting
from ...models.architectures import architecture_of
from ...models.architectures.architecture import PROJECTIONS
from ...models.resizing import replace_parameters, write_plan
from ...models.widths import WidthPlan
from ...training.distillation_trainer import DistillationTrainer
from ...training_args import DistillationArguments

FRESH = "The student began with random weights and kept none of the teacher's."


@dataclass
class FreshArguments(DistillationArguments):
    """Settings of a student of random weights: the masked-LM loss, and what it trains.

    A recipe whose own terms train no prediction could not fill in a mask. The masked-LM loss is therefore trained
    beside them, by default through the whole student, which is the stronger baseline.
    """

    mlm_weight: float = setting(1.0, "Factor ≥ 0 of the masked-LM loss, nats a prediction.", range="[0, inf)")
    mlm_trains: Literal["student", "head"] = setting(
        "student", "What the masked-LM loss trains: the student, or its head and the word embeddings tied to it alone."
    )


class FreshTrainer(DistillationTrainer):
    """A trainer whose student has the plan's widths and a stock model's random weights; arguments as in its base."""

    learning_rate_share = 0.5  # what is best for pruned students is too much for random weights (docs/results.md)
    arguments_class: ClassVar[type[DistillationArguments]] = FreshArguments
    args: FreshArguments

    def set_up_student(self) -> None:
        """Refuse what fresh weights can't be, and let the masked-LM loss train what the settings say."""
        check_masked_lm(self)
        whole = self.plan.traits.head_slot
        if whole and (other := next((layer for layer in self.plan.layers if layer.head_dim != whole), None)):
            raise ValueError(
                f"student head_dim={other.head_dim}, but fresh weights have no rotary positions to choose among; "
                f"nearest valid: {whole}"
            )
        # Its heads have never seen another scale than that of their own size.
        self.model.config.softmax_head_dim = None
        if self.args.mlm_trains == "head":
            # A gradient of 0 and not none at all: DDP waits for every parameter's.
            architecture_of(self.model.config).mlm_entry(self.model).register_forward_pre_hook(
                lambda _, states: tuple(state.detach() + 0.0 * (state - state.detach()) for state in states)
            )

    def start_student(self) -> None:
        """Give the student the plan's widths and weights drawn from the run's seed."""
        # a new model of these widths draws all weights as its stock class does, whatever was drawn before
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
