"""What a student predicts: masked words, classes of sequences, classes of tokens, answers.

A `Task` says which inputs are labels, how many predictions a batch holds, and how outputs become rows of logits that
can be compared. Adding a head means adding a `Task`. No losses here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..data.masking import IGNORED_LABEL
from ..models.families import HEADS
from ..models.families.family import MASKED_LM, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from .losses import multi_label_terms, prediction_terms, regression_terms

Inputs = Mapping[str, torch.Tensor]
Outputs = Mapping[str, torch.Tensor]
Terms = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
OWN_TERMS = frozenset(("mlm", "task"))
"""Names of the loss of the labels: every task has one of them."""


@dataclass(frozen=True)
class Task:
    """One kind of prediction.

    Args:
        name: word in logs: `mlm` or `task`.
        label_names: inputs that hold labels; they are not handed to the models.
        rows: outputs and inputs → logits `(R, C)`.
        labels: inputs → labels `(R,)`, or `(R, C)` for regression and multi-label tasks.
        terms: student rows, teacher rows and labels → summed loss and summed KL.
        has_classes: whether the highest logit is a prediction that can be right or wrong.
        has_vocabulary: whether the classes are a vocabulary, too many to hold all logits in training.
    """

    name: str
    label_names: tuple[str, ...]
    rows: Callable[[Outputs, Inputs], torch.Tensor]
    labels: Callable[[Inputs], torch.Tensor]
    terms: Terms = prediction_terms
    has_classes: bool = True
    has_vocabulary: bool = False

    def model_inputs(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """What the models get: everything but labels, and for masked words the positions to predict.

        Args:
            inputs: a batch with its labels.

        Returns:
            `dict`: keyword arguments of the models' forward.
        """
        kept = {name: tensor for name, tensor in inputs.items() if name not in self.label_names}
        return kept | {"masked_positions": masked_positions(inputs)} if self.name == "mlm" else kept

    @property
    def required_labels(self) -> tuple[str, ...]:
        """Inputs without which nothing can be measured."""
        return tuple(name for name in self.label_names if name != "masked_positions")

    def num_predictions(self, inputs: Inputs) -> torch.Tensor:
        """Predictions in a batch: labels that count.

        Args:
            inputs: a batch with its labels.

        Returns:
            `torch.Tensor`: int64 scalar; 0 for a batch without labels that count.
        """
        labels = self.labels(inputs)
        return torch.tensor(len(labels), device=labels.device)


def task_of(model: HomoBertPreTrainedModel) -> Task:
    """The task of a student, from its class and `config.problem_type`.

    Args:
        model: a student.

    Returns:
        [`Task`].
    """
    kind = HEADS[type(model).__name__].kind
    return _SEQUENCE_TASKS[_problem_type(model)] if kind is SEQUENCE_CLASSIFICATION else _TASKS[kind]


def masked_positions(inputs: Inputs) -> torch.Tensor:
    """Flat indices of the labelled tokens of a batch.

    Args:
        inputs: a batch with `labels` `(B, T)`; `masked_positions` is used where the collator gave it.

    Returns:
        `torch.LongTensor` of shape `(M,)`, indices into B·T.

    Example:
    ```python
    >>> masked_positions({"labels": torch.tensor([[-100, 7], [5, -100]])}).tolist()
    [1, 2]

    ```
    """
    given = inputs.get("masked_positions")
    return (inputs["labels"].flatten() != IGNORED_LABEL).nonzero().flatten() if given is None else given


def _problem_type(model: HomoBertPreTrainedModel) -> str:
    given = model.config.problem_type
    return given or ("regression" if model.config.num_labels == 1 else "single_label_classification")


def _labels_at_positions(inputs: Inputs) -> torch.Tensor:
    return inputs["labels"].flatten().index_select(0, masked_positions(inputs))


def _token_rows(outputs: Outputs, inputs: Inputs) -> torch.Tensor:
    return outputs["logits"].flatten(0, 1).index_select(0, masked_positions(inputs))


def _sequence_rows(outputs: Outputs, inputs: Inputs) -> torch.Tensor:
    return outputs["logits"].index_select(0, masked_positions(inputs))


def _answer_rows(outputs: Outputs, inputs: Inputs) -> torch.Tensor:
    logits = torch.cat([outputs["start_logits"], outputs["end_logits"]])
    return logits[_is_answer(_answer_positions(inputs), inputs)]


def _answer_labels(inputs: Inputs) -> torch.Tensor:
    positions = _answer_positions(inputs)
    return positions[_is_answer(positions, inputs)]


def _answer_positions(inputs: Inputs) -> torch.Tensor:
    return torch.cat([inputs["start_positions"].flatten(), inputs["end_positions"].flatten()])


def _is_answer(positions: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    # Answers that were cut off lie outside the tokens; stock BERT ignores them too.
    return (positions >= 0) & (positions < inputs["input_ids"].shape[1])


def _logits(outputs: Outputs, inputs: Inputs) -> torch.Tensor:
    return outputs["logits"]


def _value_labels(inputs: Inputs) -> torch.Tensor:
    return inputs["labels"].view(len(inputs["labels"]), -1)


_TASKS = {
    MASKED_LM: Task("mlm", ("labels", "masked_positions"), _logits, _labels_at_positions, has_vocabulary=True),
    TOKEN_CLASSIFICATION: Task("task", ("labels", "masked_positions"), _token_rows, _labels_at_positions),
    QUESTION_ANSWERING: Task("task", ("start_positions", "end_positions"), _answer_rows, _answer_labels),
}
_SEQUENCE_TASKS = {
    "single_label_classification": Task("task", ("labels",), _sequence_rows, _labels_at_positions),
    "regression": Task("task", ("labels",), _logits, _value_labels, regression_terms, has_classes=False),
    "multi_label_classification": Task(
        "task", ("labels",), _logits, _value_labels, multi_label_terms, has_classes=False
    ),
}
