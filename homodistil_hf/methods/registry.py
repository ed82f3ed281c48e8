"""Every method of training a student, by the name that configs, sweeps and tables use; nothing else.

A new one: a class in a file of its own, a line here, and a line in the contract that papers don't import each other.

The classes share one signature: `Class(teacher, args, *, train_dataset=…, eval_dataset=…, processing_class=…,
**method_settings)`, and `train`, `evaluate` and `export` of [`DistillationTrainer`].
"""

import inspect
from collections.abc import Mapping
from typing import Any

from ..files.messages import nearest_name, short_repr
from ..trainer import HomoDistilTrainer
from ..training.distillation_trainer import DistillationTrainer
from .baselines.distilbert import DistilBertTrainer
from .baselines.minilm import MiniLMTrainer, MiniLMv2Trainer
from .baselines.one_shot import OneShotTrainer, PrunedFirstTrainer
from .baselines.scratch import ScratchTrainer
from .baselines.shallow import ShallowTrainer
from .baselines.tinybert import TinyBertTrainer
from .embedding.reranker import RerankerDistilTrainer
from .embedding.trainer import EmbeddingDistilTrainer

METHODS: dict[str, type[DistillationTrainer]] = {
    "homodistil": HomoDistilTrainer,
    "shallow": ShallowTrainer,
    "one_shot": OneShotTrainer,
    "pruned_first": PrunedFirstTrainer,
    "scratch": ScratchTrainer,
    "distilbert": DistilBertTrainer,
    "tinybert": TinyBertTrainer,
    "minilm": MiniLMTrainer,
    "minilm_v2": MiniLMv2Trainer,
}

TEXT_METHODS: dict[str, Any] = {method.method: method for method in (EmbeddingDistilTrainer, RerankerDistilTrainer)}
"""Methods for models of texts, which need data of their own and no masked words; found by the teacher's folder."""


def method_named(name: str, *, has_texts: bool = False) -> type[DistillationTrainer]:
    """The class of a method; a ValueError that names the nearest where there is none.

    `has_texts`: one of `TEXT_METHODS` is meant as well.

    Example:
    ```python
    >>> default_settings(method_named("shallow")), default_settings(method_named("homodistil"))
    ({'num_layers': None, 'widths': None}, {})

    ```
    """
    known = METHODS | TEXT_METHODS if has_texts else METHODS
    if name not in known:
        raise ValueError(
            f"method={short_repr(name)} is unknown; nearest valid: {nearest_name(name, known)!r}, of "
            f"{', '.join(known)}"
        )
    return known[name]


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
                f"method_settings of {method.method!r} have the unknown key {short_repr(name)} ({short_repr(value)}); "
                f"{nearest}"
            )
