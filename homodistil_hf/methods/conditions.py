"""What several methods ask of their teacher and their student, refused before any training."""

from ..models.widths import WidthPlan
from ..training.distillation_trainer import DistillationTrainer


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


def check_masked_lm(trainer: DistillationTrainer) -> None:
    """Refuse, by a ValueError, a model with another head than the masked-LM one."""
    if trainer.distillation.task.name != "mlm":
        raise ValueError(
            f"method={trainer.method!r} trains masked-LM students, model is a {type(trainer.model).__name__}; pass a "
            "masked-LM model, or use HomoDistilTrainer"
        )
