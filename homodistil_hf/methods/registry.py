"""Every method, by the name that configs, sweeps and tables use: its trainer, its run, what it adds to commands.

A new method needs a folder or file of its own, its lines here, and a line in `.importlinter`, so that no other method
imports it.

The trainers of students share constructor, `train`, `evaluate` and `export` of [`DistillationTrainer`]; a method's
settings are the `arguments_class` of its trainer.
"""

from collections.abc import Callable
from typing import Any

from ..files.messages import nearest_name, short_repr
from ..trainer import HomoDistilTrainer
from .baselines.distilbert import DistilBertTrainer
from .baselines.minilm import MiniLMTrainer, MiniLMv2Trainer
from .baselines.one_shot import OneShotTrainer, PrunedFirstTrainer
from .baselines.scratch import ScratchTrainer
from .baselines.shallow import ShallowTrainer
from .baselines.tinybert import TinyBertTrainer
from .binarization.run import BinarizationRun
from .binarization.trainer import BinarizationTrainer
from .embedding.cascade_curve import CascadeSettings, format_cascade, measure_cascade
from .embedding.evaluate import EmbeddingEvaluationSettings, evaluate_embedding, format_scores
from .embedding.reranker import RerankerDistilTrainer
from .embedding.run import EmbeddingRun, RerankerRun
from .embedding.trainer import EmbeddingDistilTrainer
from .gradient_free.run import PruneSettings, prune_to_folder
from .masked_words import MaskedWordsRun
from .run import Evaluation, MethodCommand, Run
from .run_arguments import RunConfig
from .self_distillation.run import SelfDistillationRun, further_pretraining_of
from .self_distillation.trainer import SelfDistillTrainer

METHODS: dict[str, Any] = {
    "homodistil": HomoDistilTrainer,
    "shallow": ShallowTrainer,
    "one_shot": OneShotTrainer,
    "pruned_first": PrunedFirstTrainer,
    "scratch": ScratchTrainer,
    "distilbert": DistilBertTrainer,
    "tinybert": TinyBertTrainer,
    "minilm": MiniLMTrainer,
    "minilm_v2": MiniLMv2Trainer,
    "embedding": EmbeddingDistilTrainer,
    "reranker": RerankerDistilTrainer,
    "self_distillation": SelfDistillTrainer,
    "bit": BinarizationTrainer,
}
"""Name → trainer."""

RUNS: dict[str, type[Run]] = {
    "embedding": EmbeddingRun,
    "reranker": RerankerRun,
    "self_distillation": SelfDistillationRun,
    "bit": BinarizationRun,
}
"""Name → run, of the methods that do not distil masked words in blocks."""

TEACHER_RUNS: dict[str, Callable[[RunConfig], RunConfig]] = {"further_pretraining": further_pretraining_of}
"""Setting of a distillation → the settings of the run that makes its teacher first."""

EVALUATIONS: dict[str, Evaluation] = {
    "embedding": Evaluation(EmbeddingEvaluationSettings, evaluate_embedding, format_scores),
}
"""Task of `homodistil evaluate` → what measures models that have no head."""

COMMANDS: dict[str, MethodCommand] = {
    "prune": MethodCommand(PruneSettings, prune_to_folder),
    "cascade": MethodCommand(CascadeSettings, measure_cascade, format_cascade),
}
"""Command that is one method → what it does."""


def run_named(method: Any) -> Run:
    """Return the run of a method; a ValueError that names the nearest where there is none.

    Example:
    ```python
    >>> type(run_named("homodistil")).__name__
    'MaskedWordsRun'

    ```
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"method={short_repr(method)} is unknown; nearest valid: {nearest_name(method, METHODS)!r}, of "
            f"{', '.join(METHODS)}"
        )
    return RUNS.get(method, MaskedWordsRun)(METHODS[method])


def method_for(teacher: str) -> str | None:
    """Return the method that the folder of a teacher is for; None where several may distil it."""
    return next((name for name in RUNS if run_named(name).claims(teacher)), None)
