"""What a student predicts: masked words, classes of sequences, classes of tokens, answers.

A `Task` says which inputs are labels, which of them count, and how outputs become rows of logits that can be compared.
Adding a head means adding a `Task`. No losses here.

Shapes: B batch, T tokens, N labels, M labels that count, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

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
        required_labels: inputs without which nothing can be measured.
        all_labels: inputs → labels `(N,)`, or `(N, C)` for regression and multi-label tasks; not all may count.
        counted: all labels and inputs → bool `(N,)`, which of them count.
        all_rows: outputs → logits `(N, C)`; of masked words those at the masked positions.
        terms: student rows, teacher rows and labels → summed loss and summed KL.
        has_classes: whether the highest logit is a prediction that can be right or wrong.
        has_vocabulary: whether the classes are a vocabulary, too many to hold all logits in training.
    """

    name: str
    required_labels: tuple[str, ...]
    all_labels: Callable[[Inputs], torch.Tensor]
    counted: Callable[[torch.Tensor, Inputs], torch.Tensor]
    all_rows: Callable[[Outputs], torch.Tensor]
    terms: Terms = prediction_terms
    has_classes: bool = True
    has_vocabulary: bool = False

    @property
    def label_names(self) -> tuple[str, ...]:
        """Inputs that say what is to be predicted, or where; not for the models, masked words' positions excepted."""
        return *self.required_labels, "masked_positions"

    def with_positions(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Find the labels that count, once: nothing else of a batch need be read back from the device.

        Args:
            inputs: a batch with its labels; one that has `masked_positions` stays as it is.

        Returns:
            `dict`: the batch with `masked_positions`, int64 indices `(M,)` into all labels, ascending; without an
            `attention_mask` that masks nothing.

        Example:
        ```python
        >>> batch = {"labels": torch.tensor([[-100, 7], [5, -100]]), "attention_mask": torch.ones(2, 2)}
        >>> {name: values.tolist() for name, values in _TASKS[MASKED_LM].with_positions(batch).items()}
        {'labels': [[-100, 7], [5, -100]], 'masked_positions': [1, 2]}

        ```
        """
        found = dict(inputs)
        if "masked_positions" in found:
            return found
        counted_N, mask_BT = self.counted(self.all_labels(inputs), inputs), inputs.get("attention_mask")
        num_padding = torch.zeros_like(counted_N).sum() if mask_BT is None else (mask_BT == 0).sum()
        num_counted, is_padded = torch.stack([counted_N.sum(), num_padding]).tolist()
        # Not `nonzero`, which would read back once more.
        found["masked_positions"] = counted_N.int().argsort(descending=True, stable=True)[:num_counted]
        if not is_padded:
            found.pop("attention_mask", None)
        return found

    def model_inputs(self, inputs: Inputs, *models: PreTrainedModel) -> dict[str, torch.Tensor]:
        """What the models get: everything but labels, and for masked words the positions to predict.

        Args:
            inputs: what `with_positions` gives.
            models: who gets them, all in one type; without any, an attention mask stays as it is.

        Returns:
            `dict`: keyword arguments of the models' forward.
        """
        kept = {name: tensor for name, tensor in inputs.items() if name not in self.label_names}
        if self.has_vocabulary:
            kept["masked_positions"] = inputs["masked_positions"]
        is_known = models and {model.config._attn_implementation for model in models} <= {"eager", "sdpa"}
        if is_known and "attention_mask" in kept:
            # Of a mask of two dimensions every forward pass of transformers reads back whether it masks anything.
            is_padding_B11T, dtype = kept["attention_mask"][:, None, None] == 0, models[0].dtype
            kept["attention_mask"] = is_padding_B11T.to(dtype) * torch.finfo(dtype).min
        return kept

    def labels(self, inputs: Inputs) -> torch.Tensor:
        """The labels that count.

        Args:
            inputs: what `with_positions` gives.

        Returns:
            `torch.Tensor`: `(M,)`, or `(M, C)` for regression and multi-label tasks.
        """
        return self.all_labels(inputs).index_select(0, inputs["masked_positions"])

    def rows(self, outputs: Outputs, inputs: Inputs) -> torch.Tensor:
        """The logits that stand where labels count.

        Args:
            outputs: a model's.
            inputs: what `with_positions` gives.

        Returns:
            `torch.Tensor` of shape `(M, C)`.
        """
        rows_NC = self.all_rows(outputs)
        return rows_NC if self.has_vocabulary else rows_NC.index_select(0, inputs["masked_positions"])


def task_of(model: HomoBertPreTrainedModel) -> Task:
    """The task of a student, from its class and `config.problem_type`.

    Args:
        model: a student.

    Returns:
        [`Task`].
    """
    kind = HEADS[type(model).__name__].kind
    return _SEQUENCE_TASKS[_problem_type(model)] if kind is SEQUENCE_CLASSIFICATION else _TASKS[kind]


def _problem_type(model: HomoBertPreTrainedModel) -> str:
    given = model.config.problem_type
    return given or ("regression" if model.config.num_labels == 1 else "single_label_classification")


def _labels(inputs: Inputs) -> torch.Tensor:
    return inputs["labels"].flatten()


def _value_labels(inputs: Inputs) -> torch.Tensor:
    return inputs["labels"].view(len(inputs["labels"]), -1)


def _answers(inputs: Inputs) -> torch.Tensor:
    return torch.cat([inputs["start_positions"].flatten(), inputs["end_positions"].flatten()])


def _is_labelled(labels_N: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    return labels_N != IGNORED_LABEL


def _is_token(labels_N: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    # Answers that were cut off lie outside the tokens; stock BERT ignores them too.
    return (labels_N >= 0) & (labels_N < inputs["input_ids"].shape[1])


def _always(labels_NC: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    return torch.ones_like(labels_NC[:, 0], dtype=torch.bool)


def _logits(outputs: Outputs) -> torch.Tensor:
    return outputs["logits"]


def _token_logits(outputs: Outputs) -> torch.Tensor:
    return outputs["logits"].flatten(0, 1)


def _answer_logits(outputs: Outputs) -> torch.Tensor:
    return torch.cat([outputs["start_logits"], outputs["end_logits"]])


_TASKS = {
    MASKED_LM: Task("mlm", ("labels",), _labels, _is_labelled, _logits, has_vocabulary=True),
    TOKEN_CLASSIFICATION: Task("task", ("labels",), _labels, _is_labelled, _token_logits),
    QUESTION_ANSWERING: Task("task", ("start_positions", "end_positions"), _answers, _is_token, _answer_logits),
}
_SEQUENCE_TASKS = {
    "single_label_classification": Task("task", ("labels",), _labels, _is_labelled, _logits),
    "regression": Task("task", ("labels",), _value_labels, _always, _logits, regression_terms, has_classes=False),
    "multi_label_classification": Task(
        "task", ("labels",), _value_labels, _always, _logits, multi_label_terms, has_classes=False
    ),
}
