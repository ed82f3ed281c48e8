"""Every method of training a student, by the name that configs, sweeps and tables use; nothing else.

A new one: a class in a file of its own, a line here, and a line in the contract that papers don't import each other.

The classes share constructor, `train`, `evaluate` and `export` of [`DistillationTrainer`]; a method's settings are
its `arguments_class`.
"""

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
    >>> method_named("shallow").arguments_class.__name__, method_named("homodistil").arguments_class.__name__
    ('ShallowArguments', 'HomoDistilTrainingArguments')

    ```
    """
    known = METHODS | TEXT_METHODS if has_texts else METHODS
    if name not in known:
        raise ValueError(
            f"method={short_repr(name)} is unknown; nearest valid: {nearest_name(name, known)!r}, of "
            f"{', '.join(known)}"
        )
    return known[name]
