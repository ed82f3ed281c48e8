"""A student's kind of prediction: masked words, classes of sequences, classes of tokens, answers.

A `Task` names the inputs that are labels, finds those that count, and turns outputs into rows of logits to compare.
A new head needs a new `Task`. losses.py has the formulas.

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
"""Names of the loss with the labels: every task has one of them."""


@dataclass(frozen=True)
class Task:
    """One kind of prediction.

    Args:
        name: word in logs: `mlm` or `task`.
        required_labels: inputs that every evaluation needs.
        logits: outputs that predict them, in the same order.
        terms: student rows, teacher rows and labels → summed loss and summed KL.
        has_classes: whether the highest logit is a right or wrong prediction; without classes every label counts.
        has_vocabulary: whether the classes are a vocabulary, whose logits are too many to hold in training.
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
        """Inputs with labels or their positions; models get none of them, except for masked words' positions."""
        return *self.required_labels, "masked_positions"

    def with_positions(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Find the labels that count, with one copy from the device for the whole batch.

        Args:
            inputs: a batch with its labels; a batch that has `masked_positions` stays as it is.

        Returns:
            `dict`: the batch with `masked_positions`, int64 indices `(M,)` into all labels, ascending; without an
            `attention_mask` if no token is masked.

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
        # Not `nonzero`, which would copy from the device once more.
        found["masked_positions"] = counted_N.int().argsort(descending=True, stable=True)[:num_counted]
        if not is_padded:
            found.pop("attention_mask", None)
        return found

    def model_inputs(self, inputs: Inputs, *models: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the keyword arguments of the models' forward: no labels, but masked words' positions.

        Args:
            inputs: the result of `with_positions`.
            models: the models, all in one type; without any, an attention mask stays as it is.
        """
        kept = {name: tensor for name, tensor in inputs.items() if name not in self.label_names}
        if self.has_vocabulary:
            kept["masked_positions"] = inputs["masked_positions"]
        is_known = models and {model.config._attn_implementation for model in models} <= {"eager", "sdpa"}
        if is_known and architecture_of(models[0].config).takes_added_masks and "attention_mask" in kept:
            # For a mask of two dimensions every forward pass of transformers copies from the device whether it masks
            # anything.
            is_padding_B11T, dtype = kept["attention_mask"][:, None, None] == 0, models[0].dtype
            kept["attention_mask"] = is_padding_B11T.to(dtype) * torch.finfo(dtype).min
        return kept

    def labels(self, inputs: Inputs) -> torch.Tensor:
        """Return the labels that count, `(M,)`, or `(M, C)` for regression and multi-label tasks.

        Args:
            inputs: the result of `with_positions`.
        """
        return self._all_labels(inputs).index_select(0, inputs["masked_positions"])

    def rows(self, outputs: Outputs, inputs: Inputs) -> torch.Tensor:
        """Return the logits `(M, C)` of the labels that count.

        Args:
            outputs: a model's.
            inputs: the result of `with_positions`.
        """
        if self.has_vocabulary:  # the head ran at these positions only
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


_WITHOUT_HEAD = Task("probe", has_classes=False)
"""Task of an encoder without a head: each label is a direction in which its units are scored."""


def task_of(model: LayerwiseModel) -> Task:
    """Return the task of a student, from its class and `config.problem_type`."""
    head = HEADS.get(type(model).__name__)
    if head is None:
        return _WITHOUT_HEAD
    if head.kind is not SEQUENCE_CLASSIFICATION:
        return _TASKS[head.kind]
    default = "regression" if model.config.num_labels == 1 else "single_label_classification"
    return _SEQUENCE_TASKS[model.config.problem_type or default]


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
