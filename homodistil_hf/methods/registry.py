"""Every method, by the name that configs, sweeps and tables use: its trainer, its run, what it adds to commands.

A new method needs a folder or file of its own, its lines here, and a line in `.importlinter`, so that no other method
imports it.

The trainers of students share constructor, `train`, `evaluate` and `export` of [`DistillationTrainer`]; a method's
settings are the `arguments_class` of its trainer.
"""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig

from ..embedding.cascade import CascadeSettings, format_cascade, measure_cascade
from ..embedding.evaluate import EmbeddingEvaluationSettings, evaluate_embedding, format_scores
from ..embedding.reranker import RerankerDistilTrainer
from ..embedding.reranker_run import RerankerRun
from ..embedding.run import EmbeddingRun
from ..embedding.trainer import EmbeddingDistilTrainer
from ..files.messages import nearest_name, short_repr
from ..models.loading import load_encoder_config
from ..trainer import HomoDistilTrainer
from .baselines.distilbert import DistilBertTrainer
from .baselines.minilm import MiniLMTrainer, MiniLMv2Trainer
from .baselines.one_shot import OneShotTrainer, PrunedFirstTrainer
from .baselines.scratch import ScratchTrainer
from .baselines.shallow import ShallowTrainer
from .baselines.tinybert import TinyBertTrainer
from .binarization.run import BinarizationRun
from .binarization.trainer import BinarizationTrainer
from .gradient_free.run import PruneSettings, prune_to_folder
from .masked_words import MaskedWordsRun
from .run import Evaluation, MethodCommand, Run
from .run_arguments import RunConfig
from .self_distillation.run import SelfDistillationRun, further_pretraining_of
from .self_distillation.trainer import SelfDistillTrainer
from .task_models import TaskRun, is_task_model

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
"""Name → run, of the methods that distil neither masked words in blocks nor rows of a task."""

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


def run_of(settings: RunConfig) -> Run:
    """Return the run of a config's method and teacher; as [`run_named`]."""
    run, training = settings.run, settings.training
    how = {"revision": getattr(run, "teacher_revision", None), "token": getattr(training, "hub_token", None)}
    return run_named(run.method, getattr(run, "teacher", None), **how)


def run_named(
    method: Any, teacher: str | None = None, *, revision: str | None = None, token: str | None = None
) -> Run:
    """Return the run of a method; a ValueError that names the nearest where there is none.

    A method that isn't in `RUNS` distils masked words, or the rows of a `teacher` that is fine-tuned for a task.

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
    if method in RUNS:
        return RUNS[method](METHODS[method])
    is_task = teacher is not None and is_task_model(teacher, revision=revision, token=token)
    return (TaskRun if is_task else MaskedWordsRun)(METHODS[method])


def planned_config(teacher: str) -> PreTrainedConfig:
    """Read the configuration of a teacher's encoder, naming its student's class; as [`load_encoder_config`]."""
    method = method_for(teacher)
    found = None if method is None else run_named(method).planned_config(teacher)
    return found or load_encoder_config(teacher)


def method_for(teacher: str, given: Mapping[str, Any] | None = None) -> str | None:
    """Return the method that the folder of a teacher is for; None where several may distil it.

    Args:
        teacher: folder or Hub name.
        given: settings that describe the rows, by name; a `method` among them rules out what may be another model.
    """
    return next((name for name in RUNS if run_named(name).claims(teacher, given or {})), None)
