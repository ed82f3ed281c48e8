"""A small model that learns a task beside its fine-tuned teacher: its head, and projections by least squares."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..distillation.projections import LeastSquares
from ..distillation.tasks import Inputs, Task
from ..export.export_folder import load_export, student_in
from ..export.facts import LOSSES_ALONE, MethodCard
from ..models.architectures import HEADS
from ..models.architectures.architecture import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.heads import HEAD_DROPOUT, head_linears, with_fresh_head
from ..models.loading import MODULES_FILE, load_encoder, load_encoder_config
from ..tasks.kinds import VALUES, task_kind_of

_TASKS = (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
BESIDE_A_TEACHER: dict[str, Any] = {"hidden_weight": 1.0, "embedding_weight": 0.0}
"""Settings of a student of a task that starts small, where others aren't given; all else are a run's defaults."""
NUM_FITTING_BATCHES = 16
"""Batches for [`fit_to_teacher`], on each rank."""
_OF_THE_LABELS = ("id2label", "label2id", "problem_type")


CARD = MethodCard(
    student="Task student",
    made="fine-tuned beside its teacher {teacher}, starting from a smaller model",
    how="The student began as a smaller model than its teacher, with a fresh head where it had none for the task. It "
    "learned from its teacher's predictions and hidden states, and from the labels of rows that have some.",
    paper=f"Nothing was pruned in this run. {LOSSES_ALONE}",
)
"""The part of the model card of a run beside a fine-tuned teacher."""


def is_of_a_task(class_name: str) -> bool:
    """Whether a class of a model predicts labels of a task, and so is fine-tuned.

    Example:
    ```python
    >>> is_of_a_task("BertForTokenClassification"), is_of_a_task("BertForMaskedLM")
    (True, False)

    ```
    """
    head = HEADS.get(class_name)
    return head is not None and head.kind in _TASKS


def task_pair(
    model: Any, teacher: Any, *, token: str | None, seed: int, is_pruned: bool
) -> tuple[PreTrainedModel, PreTrainedModel, bool] | None:
    """Load a small model and the fine-tuned teacher that it learns from; None where the pair is another one.

    Args:
        model: Hub name, folder or a loaded model; general if it predicts masked words.
        teacher: the same, or None; fine-tuned for a task, else the pair is another one.
        token: of the Hub.
        seed: of a fresh head.
        is_pruned: whether the run makes the model smaller; then one that is fine-tuned is no such start.

    Returns:
        Student, teacher, and whether the student got a fresh head, as it was a general model.
    """
    if not is_of_a_task(class_name_of(teacher, token, "teacher")):
        return None
    is_general = not is_of_a_task(class_name_of(model, token, "model"))
    if not is_general and is_pruned:
        return None
    student = load_small_start(model, token=token, argument="model") if isinstance(model, str) else model
    guide = load_encoder(teacher, token=token) if isinstance(teacher, str) else teacher
    return with_head_of(guide, student, seed=seed) if is_general else student, guide, is_general


def folder_of_start(model: str) -> tuple[str, bool]:
    """The folder of a model, which may be in that of a run, and whether it is an export; a Hub name as it is.

    An export of sentence-transformers is no export here, but a folder of an encoder like others.
    """
    folder = Path(os.path.expanduser(model))
    if not folder.is_dir():
        return model, False
    found = student_in(folder)
    return str(found.folder), found.kind == "export" and not (found.folder / MODULES_FILE).is_file()


def load_small_start(model: str, *, token: str | None, argument: str) -> PreTrainedModel:
    """Load a small model; of an export or a finished run without the padding of its stock class."""
    folder, is_export = folder_of_start(model)
    return load_export(folder) if is_export else load_encoder(folder, token=token, argument=argument, needs_head=False)


def class_name_of(model: Any, token: str | None, argument: str) -> str:
    """The class of a model that is loaded, or that a folder or Hub name holds; a `teacher` has a head."""
    if not isinstance(model, str):
        return type(model).__name__
    folder, needs_head = folder_of_start(model)[0], argument == "teacher"
    config = load_encoder_config(folder, token=token, argument=argument, needs_head=needs_head)
    name: str = config.architectures[0]
    return name


def with_head_of(teacher: PreTrainedModel, encoder: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """A stock model around a copy of an encoder, with a fresh head for a fine-tuned teacher's labels.

    Args:
        teacher: gives kind, names and number of the labels.
        encoder: of a stock class or a student's, with a head of masked words or none.
        seed: of the head.
    """
    kind, config = HEADS[type(teacher).__name__].kind, teacher.config
    model = with_fresh_head(encoder.base_model, config.num_labels, kind, dropout=HEAD_DROPOUT, seed=seed)
    for name in _OF_THE_LABELS:
        if hasattr(config, name):
            setattr(model.config, name, getattr(config, name))
    model.name_or_path = encoder.name_or_path
    return model


@torch.no_grad()
def fit_to_teacher(
    student: LayerwiseModel,
    teacher: PreTrainedModel,
    *,
    task: Task,
    batches: Iterable[Inputs],
    reduce: Callable[[torch.Tensor], torch.Tensor],
    has_fresh_head: bool,
    matched_layers: Sequence[int] | None = None,
) -> None:
    """Fit a student's projections to its teacher's hidden states by least squares over some batches.

    With a fresh head a regression's answers begin at the teacher's mean answer, see `fine_tuning.start_at_mean`.

    Args:
        student: with projections; in evaluation mode from now on.
        teacher: the exact one.
        task: of both.
        batches: results of the task's `with_positions`, on the models' device.
        reduce: adds up what all ranks have seen.
        has_fresh_head: whether the student's head is untrained.
        matched_layers: the teacher's layer for each of the student's; None: the same one.
    """
    student.eval()
    projections = student.projections
    # hidden_states begin with the embeddings, so each matrix has the place of its states
    of_places = enumerate([projections.embedding, *projections.hidden])
    matrices = [(place, matrix) for place, matrix in of_places if matrix]
    layers = range(len(projections.hidden)) if matched_layers is None else matched_layers
    states = [0, *(layer + 1 for layer in layers)]
    places = [place for place, _ in matrices], [states[place] for place, _ in matrices]
    found, answers_R = LeastSquares(), []
    for inputs in batches:
        read = task.model_inputs(inputs)
        outputs = [model(**read, output_hidden_states=True) for model in (student, teacher)]
        pairs = zip(outputs, places, strict=True)
        own, target = ([output.hidden_states[place] for place in compared] for output, compared in pairs)
        found.add(own, target, read.get("attention_mask", torch.ones_like(read["input_ids"])).bool())
        answers_R.append(task.rows(outputs[1], inputs))
    found.fit((matrix for _, matrix in matrices), reduce)
    if has_fresh_head and task_kind_of(student.config, type(student).__name__) == VALUES:
        output = [layer for layer in head_linears(student) if layer.bias is not None][-1]  # projections have none
        answers = torch.cat(answers_R)
        output.bias.copy_(reduce(answers.sum(0)) / reduce(torch.tensor(len(answers))))
