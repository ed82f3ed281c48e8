"""What several methods ask of their settings and their teacher, refused before any training."""

import inspect
from collections.abc import Mapping
from typing import Any

from ..files.messages import nearest_name, shown
from ..models.widths import WidthPlan
from ..training.distillation_trainer import DistillationTrainer
from ..training_args import PRUNING_KINDS, HomoDistilTrainingArguments


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


def check_loss_weights(weights: Mapping[str, float]) -> None:
    """Refuse, by a ValueError, factors of loss terms that are below 0, or all 0."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name}_weight={shown(weight)} is below 0; leave it at its default or set it to 0")
    if not any(weights.values()):
        names = ", ".join(f"{name}_weight" for name in weights)
        raise ValueError(f"{names} are all 0, so nothing would be learnt; leave one of them at its default")


def check_pruned_at_once(args: HomoDistilTrainingArguments, models: str) -> None:
    """Refuse, by a ValueError, a schedule; `models` are named in the error."""
    if any(args.pruning_window(kind)[1] for kind in PRUNING_KINDS):
        raise ValueError(f"pruning_end_fraction > 0: {models} are pruned at once; leave it at 0")


def check_masked_lm(trainer: DistillationTrainer) -> None:
    """Refuse, by a ValueError, a model with another head than the masked-LM one."""
    if trainer.distillation.task.name != "mlm":
        raise ValueError(
            f"method={trainer.method!r} trains masked-LM students, model is a {type(trainer.model).__name__}; pass a "
            "masked-LM model, or use HomoDistilTrainer"
        )


def check_recordable(args: HomoDistilTrainingArguments) -> None:
    """Refuse reentrant gradient checkpointing: it would lose gradients of recorded queries, keys and values."""
    kwargs: Any = args.gradient_checkpointing_kwargs or {}
    if args.gradient_checkpointing and kwargs.get("use_reentrant"):
        raise ValueError(
            f"gradient_checkpointing_kwargs={kwargs!r} keeps no gradient of queries and keys, which this method "
            "compares; set use_reentrant to false"
        )


def default_settings(method: type[DistillationTrainer]) -> dict[str, Any]:
    """The settings that a method has beside those of every run: name → default."""
    shared = inspect.signature(DistillationTrainer.__init__).parameters
    own = inspect.signature(method.__init__).parameters
    return {
        name: entry.default
        for name, entry in own.items()
        if entry.kind is inspect.Parameter.KEYWORD_ONLY and name not in shared
    }


def check_method_settings(method: type[DistillationTrainer], settings: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError that names the nearest, settings that a method doesn't take."""
    valid = default_settings(method)
    for name, value in settings.items():
        if name not in valid:
            nearest = f"nearest valid: {nearest_name(name, valid)!r}" if valid else "it has none of its own"
            raise ValueError(
                f"method_settings of {method.method!r} have the unknown key {shown(name)} ({shown(value)}); {nearest}"
            )
