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
from ..models.architectures import HEADS, architecture_of
from ..models.architectures.architecture import (
    MASKED_LM,
    QUESTION_ANSWERING,
    REPLACED_TOKENS,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from ..models.architectures.modeling_layerwise import LayerwiseModel
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
        required_labels: inputs without which nothing can be measured, one after the other.
        logits: outputs that predict them, in the same order.
        terms: student rows, teacher rows and labels → summed loss and summed KL.
        has_classes: whether the highest logit is a prediction that can be right or wrong; without, every label counts.
        has_vocabulary: whether the classes are a vocabulary, too many to hold all logits in training.
        points: whether the classes are the sequence's own tokens.
        has_one_logit: whether two classes have one logit, that of the second; the first one's is 0.
    """

    name: str = "task"
    required_labels: tuple[str, ...] = ("labels",)
    logits: tuple[str, ...] = ("logits",)
    terms: Terms = prediction_terms
    has_classes: bool = True
    has_vocabulary: bool = False
    points: bool = False
    has_one_logit: bool = False

    @property
    def is_pretraining(self) -> bool:
        """Whether a batch's labels come from its text."""
        return self.has_vocabulary or self.has_one_logit

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
        counted_N, mask_BT = self._counted(inputs), inputs.get("attention_mask")
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
        if is_known and architecture_of(models[0].config).takes_added_masks and "attention_mask" in kept:
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
        return self._all_labels(inputs).index_select(0, inputs["masked_positions"])

    def rows(self, outputs: Outputs, inputs: Inputs) -> torch.Tensor:
        """The logits that stand where labels count.

        Args:
            outputs: a model's.
            inputs: what `with_positions` gives.

        Returns:
            `torch.Tensor` of shape `(M, C)`.
        """
        if self.has_vocabulary:  # they were computed there only
            return outputs["logits"]
        if self.has_one_logit:
            second_N = outputs["logits"].flatten()
            rows_N2 = torch.stack([torch.zeros_like(second_N), second_N], -1)
            return rows_N2.index_select(0, inputs["masked_positions"])
        rows_NC = torch.cat([outputs[name].flatten(0, -2) for name in self.logits])
        return rows_NC.index_select(0, inputs["masked_positions"])

    def _all_labels(self, inputs: Inputs) -> torch.Tensor:
        labels = torch.cat([inputs[name] for name in self.required_labels])
        return labels.flatten() if self.has_classes else labels.view(len(labels), -1)

    def _counted(self, inputs: Inputs) -> torch.Tensor:
        labels = self._all_labels(inputs)
        if not self.has_classes:
            return torch.ones_like(labels[:, 0], dtype=torch.bool)
        if not self.points:
            return labels != IGNORED_LABEL
        # Answers that were cut off lie outside the tokens; stock BERT ignores them too.
        return (labels >= 0) & (labels < inputs["input_ids"].shape[1])


PROBE = Task("probe", has_classes=False)
"""Of an encoder without a head: labels are directions, a row each, by which its units are scored."""


def task_of(model: LayerwiseModel) -> Task:
    """The task of a student, from its class and `config.problem_type`.

    Args:
        model: a student.

    Returns:
        [`Task`].
    """
    head = HEADS.get(type(model).__name__)
    if head is None:
        return PROBE
    kind = head.kind
    return _SEQUENCE_TASKS[_problem_type(model)] if kind is SEQUENCE_CLASSIFICATION else _TASKS[kind]


def _problem_type(model: LayerwiseModel) -> str:
    given = model.config.problem_type
    return given or ("regression" if model.config.num_labels == 1 else "single_label_classification")


_TASKS = {
    MASKED_LM: Task("mlm", has_vocabulary=True),
    TOKEN_CLASSIFICATION: Task(),
    REPLACED_TOKENS: Task(has_one_logit=True),
    QUESTION_ANSWERING: Task(
        required_labels=("start_positions", "end_positions"), logits=("start_logits", "end_logits"), points=True
    ),
}
_SEQUENCE_TASKS = {
    "single_label_classification": Task(),
    "regression": Task(terms=regression_terms, has_classes=False),
    "multi_label_classification": Task(terms=multi_label_terms, has_classes=False),
}
