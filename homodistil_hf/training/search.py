"""What a search of settings does to a trainer: each trial, and the end, make it again with other settings.

`ExactTrainer.hyperparameter_search` is Trainer's, with this.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..files.messages import join_some

if TYPE_CHECKING:
    from .exact_trainer import ExactTrainer


def check_searchable(trainer: "ExactTrainer") -> None:
    """Refuse, by a ValueError, a trainer that can't be made again for each trial."""
    if not trainer.made_with:
        raise ValueError(
            f"{type(trainer).__name__} trains the given model itself, so a trial would go on from the one before; "
            "start a run with each setting"
        )
    if any(trainer.made_with.get("optimizers") or ()):
        raise ValueError(
            "optimizers is given, but each trial has a student and an optimizer of its own; leave it out, or give "
            "optimizer_cls_and_kwargs"
        )


def default_objective(metrics: Mapping[str, float]) -> float:
    """What a search minimizes unless asked for something else: the distance from the teacher, or the loss.

    Of several evaluation sets it is the mean.

    Raises:
        ValueError: an evaluation without either.
    """
    for name in ("kl", "loss"):
        if f"eval_{name}" in metrics:
            return metrics[f"eval_{name}"]
        if of_sets := [value for key, value in metrics.items() if re.fullmatch(f"eval_(.+_)?{name}", key)]:
            return sum(of_sets) / len(of_sets)
    raise ValueError(
        f"compute_objective is not set, and the evaluation has neither eval_kl nor eval_loss ({join_some(metrics)}); "
        "give one"
    )


def make_again(trainer: "ExactTrainer", settings: Mapping[str, Any]) -> None:
    """Let a trainer become the one that its constructor makes with these settings in place of the given ones."""
    made, called = trainer.made_with, trainer.called_with
    # a backend may give whole numbers as floats
    whole = {entry.name for entry in dataclasses.fields(made["args"]) if entry.type is int}
    settings = {name: int(value) if name in whole else value for name, value in settings.items()}
    kept = {name: getattr(trainer, name) for name in ("made_with", "called_with", "compute_metrics")}
    kept |= {name: getattr(trainer, name) for name in ("hp_search_backend", "hp_space", "hp_name")}
    kept |= {"compute_objective": trainer.compute_objective, "objective": None}
    earlier = trainer.callback_handler.callbacks

    def construct(settings: Mapping[str, Any]) -> None:
        changed = [(made["args"], dataclasses.replace(made["args"], **settings))]
        if "student" in settings and made.get("plan") is not None:
            changed.append((made["plan"], None))  # which would stand for the student

        def now(value: Any) -> Any:
            return next((new for old, new in changed if value is old), value)

        places, names = called
        if not any(value is made["args"] for value in (*places, *names.values())):  # a subclass made them itself
            places, names = (), dict(made)
        trainer.__dict__.clear()  # first, so that no memory is held twice
        type(trainer).__init__(trainer, *map(now, places), **{name: now(value) for name, value in names.items()})

    try:
        construct(settings)
    except Exception:
        construct({})
        raise
    finally:
        trainer.__dict__.update(kept)
    # callbacks as they were: the user may have added some since, and removed others
    own, given = list(trainer.callback_handler.callbacks), made.get("callbacks") or ()
    fresh = {type(callback) for callback in own if not any(callback is one for one in given)}
    for callback in own:
        is_of_class = type(callback) in fresh
        if not any(type(one) is type(callback) if is_of_class else one is callback for one in earlier):
            trainer.remove_callback(callback)
    for callback in earlier:
        if type(callback) not in fresh and not any(callback is one for one in own):
            trainer.add_callback(callback)
