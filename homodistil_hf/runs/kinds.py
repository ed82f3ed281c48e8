"""Every method and every kind of run by name, and the functions of a kind, which decide how its runs go.

A new method needs a file or folder of its own, its line in `METHODS`, and a line in `.importlinter`, so that no other
method imports it; a variant with the loss of another is a class in that one's file. Where a method distils neither
masked words in blocks nor rows of a task, it also needs a kind: a file in `runs/` with its functions, and a line in
`KINDS`. Names are resolved when they are used, so a run imports its own method alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..files.hub_errors import HubError
from ..files.messages import nearest_valid, short_repr
from ..files.model_files import model_file
from ..files.settings import differing
from ..files.strict_json import read_json_object
from ..models.loading import MODULES_FILE, load_encoder_config
from ..models.widths import WidthPlan
from ..tasks.kinds import MASKED_WORDS, task_kind_of
from .settings import Log, RunArguments, RunConfig

METHODS = {
    "homodistil": "homodistil_hf.trainer:HomoDistilTrainer",
    "one_shot": "homodistil_hf.methods.baselines.one_shot:OneShotTrainer",
    "pruned_first": "homodistil_hf.methods.baselines.one_shot:PrunedFirstTrainer",
    "scratch": "homodistil_hf.methods.baselines.fresh:ScratchTrainer",
    "distilbert": "homodistil_hf.methods.baselines.distilbert:DistilBertTrainer",
    "tinybert": "homodistil_hf.methods.baselines.fresh:TinyBertTrainer",
    "minilm": "homodistil_hf.methods.baselines.minilm:MiniLMTrainer",
    "minilm_v2": "homodistil_hf.methods.baselines.minilm:MiniLMv2Trainer",
    "embedding": "homodistil_hf.embedding.trainer:EmbeddingDistilTrainer",
    "sparse": "homodistil_hf.embedding.sparse_trainer:SparseDistilTrainer",
    "multi_vector": "homodistil_hf.embedding.multi_vector_trainer:MultiVectorDistilTrainer",
    "reranker": "homodistil_hf.embedding.reranker:RerankerDistilTrainer",
    "self_distillation": "homodistil_hf.methods.self_distillation.trainer:SelfDistillTrainer",
    "bit": "homodistil_hf.methods.binarization.stages:BinarizationTrainer",
}
"""Name in configs, sweeps and tables → trainer, whose `arguments_class` are the method's settings."""

MASKED_WORDS_RUN, TASK_RUN = "masked_words", "task"
KINDS = {
    MASKED_WORDS_RUN: "homodistil_hf.runs.masked_words:KIND",
    TASK_RUN: "homodistil_hf.runs.task:KIND",
    "embedding": "homodistil_hf.runs.embedding:KIND",
    "sparse": "homodistil_hf.runs.sparse:KIND",
    "multi_vector": "homodistil_hf.runs.multi_vector:KIND",
    "reranker": "homodistil_hf.runs.reranker:KIND",
    "self_distillation": "homodistil_hf.runs.further_pretraining:KIND",
    "bit": "homodistil_hf.runs.bits:KIND",
}
"""Name → kind of run; all but the first two are of the method of the same name."""
_METHODS_OF_CLASSES = {"SparseEncoder": "sparse", "MultiVectorEncoder": "multi_vector", "ColBERT": "multi_vector"}
"""Class that a model of sentence-transformers names as its own → method; of all others `embedding`."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The functions and settings of one kind of run.

    Args:
        run: does all of a run with its settings, tells the user lines, and returns the content of its `results.json`.
            None: the run makes a student of a teacher, see [`StudentKind`].
        summary: the content of a run's `results.json` and its folder → how it ended, in lines.
        arguments: dataclass of teacher and text; if it isn't a [`RunArguments`], it holds all settings of the run.
        unused: settings that have no part in such a run.
        place: what refuses these, for messages; default: the method.
    """

    summary: Callable[[Mapping[str, Any], str], str]
    run: Callable[[RunConfig, Log], dict[str, Any]] | None = None
    arguments: Any = RunArguments
    unused: tuple[str, ...] = ()
    place: str | None = None

    def check(self, run: Any, *training: Any) -> None:
        """Refuse, by a ValueError, settings that have no part in such a run."""
        for settings in (run, *training):
            present = {name: getattr(settings, name) for name in self.unused if hasattr(settings, name)}
            for name, value in differing(present, type(settings)).items():
                place = self.place or f"method={run.method!r}"
                raise ValueError(f"{name}={short_repr(value)} has no place with {place}; leave it out")

    def settings_classes(self, method: str) -> tuple[Any, ...]:
        """Dataclasses of the settings of a run by a method."""
        has_training = issubclass(self.arguments, RunArguments)
        return (self.arguments, trainer_named(method).arguments_class) if has_training else (self.arguments,)


@dataclass(frozen=True)
class RunInputs:
    """What a student's run is checked against before any text is read.

    Args:
        config: the teacher's.
        tokenizer: fits the teacher.
        teacher: with its weights, where the run reads it as a whole.
    """

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    teacher: Any = None


@dataclass(frozen=True)
class Rows:
    """The rows of a student's run.

    Args:
        train: to train on.
        held_out: to evaluate on.
        facts: what was understood of them, for the results.
        grading: of a model's answers to the held-out rows, where labels are known.
        metrics: names of the metrics to report; default: the trainer's.
    """

    train: Any
    held_out: Dataset
    facts: Mapping[str, Any] = field(default_factory=dict)
    grading: Callable[[PreTrainedModel], dict[str, float]] | None = None
    metrics: tuple[str, ...] = ()


def method_plan(settings: RunConfig, inputs: RunInputs) -> WidthPlan:
    """The widths that the method gives a student of this teacher."""
    return trainer_named(settings.run.method).plan_of(settings.training, inputs.config)


def loaded_teacher(settings: RunConfig, inputs: RunInputs) -> tuple[None, Any]:
    """The teacher that was checked; the student starts as its copy."""
    return None, inputs.teacher


@dataclass(frozen=True, kw_only=True)
class StudentKind(Kind):
    """A kind of run that distils one student, or a chain of sizes; `student.py` calls its functions in this order.

    Args:
        inputs: checks teacher and lengths; the members of a chain have them in common.
        plan: widths of the student; with `inputs` it raises what the run would raise before it reads any text.
        rows: reads the text.
        training: the arguments of the trainer, with defaults that follow from the rows to train on.
        models: loads what the student starts as (None: as its teacher), and the teacher, as the trainer takes it.
        of_members: measures the finished members of a chain with its inputs, in their folders; more of its results.
    """

    inputs: Callable[[RunConfig], RunInputs]
    plan: Callable[[RunConfig, RunInputs], WidthPlan] = method_plan
    rows: Callable[[RunConfig, RunInputs, Log], Rows]
    training: Callable[[RunConfig, RunInputs, Any], Any]
    models: Callable[[RunConfig, RunInputs], tuple[PreTrainedModel | None, Any]] = loaded_teacher
    of_members: Callable[[RunConfig, RunInputs, Sequence[Path]], dict[str, Any]] | None = None


def trainer_named(method: str) -> Any:
    """Import the trainer of a method; a ValueError names the nearest one where there is none.

    Example:
    ```python
    >>> trainer_named("one_shot").__name__
    'OneShotTrainer'

    ```
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method={short_repr(method)} is unknown; {nearest_valid(method, METHODS)}")
    return resolve_name(METHODS[method])


def run_kind_of(settings: RunConfig) -> Any:
    """Import the kind of a run, a [`Kind`]; as [`run_kind_for`]."""
    run, token = settings.run, getattr(settings.training, "hub_token", None)
    teacher, revision = getattr(run, "teacher", None), getattr(run, "teacher_revision", None)
    return run_kind_for(run.method, teacher, revision=revision, token=token)


def student_kind_of(settings: RunConfig) -> StudentKind:
    """Return the kind of a run that distils a student; a ValueError for another one."""
    kind = run_kind_of(settings)
    if not isinstance(kind, StudentKind):
        raise ValueError(
            f"method={settings.run.method!r} makes no student of a teacher; run it by itself: homodistil distill "
            "CONFIG"
        )
    return kind


def run_kind_for(
    method: str, teacher: str | None = None, *, revision: str | None = None, token: str | None = None
) -> Any:
    """Import the kind of the runs of a method with a teacher, a [`Kind`].

    A method without a line in `KINDS` distils a task if its teacher is fine-tuned for one. Otherwise, and where no
    teacher is named, it distils masked words.
    """
    trainer_named(method)  # refuses what is no method
    if method in KINDS:
        return run_kind_named(method)
    has_task = teacher is not None and is_fine_tuned(teacher, revision=revision, token=token)
    return run_kind_named(TASK_RUN if has_task else MASKED_WORDS_RUN)


def run_kind_named(name: str) -> Any:
    """Import a kind of run, a [`Kind`], by its name in `KINDS`."""
    return resolve_name(KINDS[name])


def method_for(teacher: str, given: Mapping[str, Any] | None = None) -> str | None:
    """Return the method that the folder of a teacher is for; None where several may distil it.

    Args:
        teacher: folder or Hub name.
        given: settings that describe the rows, by name; a `method` among them rules out what may be another model.
    """
    given = given or {}
    if given.get("teacher_vectors"):
        return "embedding"
    method = method_of_model(teacher, token=given.get("hub_token")) if teacher else None
    if method == "reranker":  # one output: it may be a regression, too
        from .reranker import are_pairs_to_rank

        return method if given.get("method") is None and are_pairs_to_rank(given) else None
    return method


def method_of_model(name: str, *, token: str | None = None) -> str | None:
    """The method for the model in a folder or on the Hub: one of vectors, `reranker`, None for others.

    Also None for what can't be reached; the error comes where it is loaded.
    """
    config = model_file(name, "config.json", token=token)
    if config is None and not Path(name).is_dir():
        return None
    values = read_json_object(config, str(config)) if config else {}
    names, labels = values.get("architectures"), values.get("id2label")
    is_classifier = isinstance(names, list) and str(names[0] if names else "").endswith("ForSequenceClassification")
    if is_classifier and isinstance(labels, dict) and len(labels) == 1:
        return "reranker"
    if model_file(name, MODULES_FILE, token=token) is None:
        return None
    from ..embedding.model import SETTINGS_FILE

    file = model_file(name, SETTINGS_FILE, token=token)
    own_class = read_json_object(file, str(file)).get("model_type") if file else None
    return _METHODS_OF_CLASSES.get(str(own_class), "embedding")


def is_fine_tuned(teacher: str, *, revision: str | None = None, token: str | None = None) -> bool:
    """Whether a folder or Hub name holds a model that is fine-tuned for a task; False where it can't be read.

    Raises:
        HubError: the Hub refused or can't be reached.
    """
    read = _task_kind if Path(teacher).exists() else _task_kind_on_hub
    try:
        return read(teacher, revision, token) != MASKED_WORDS
    except HubError:  # another rank may read it, and take the run for another
        raise
    except (OSError, ValueError):
        return False


def _task_kind(teacher: str, revision: str | None, token: str | None) -> str:
    return task_kind_of(load_encoder_config(teacher, revision=revision, token=token))


_task_kind_on_hub = cache(_task_kind)  # one config asks several times
