"""A student's kind of prediction: masked words, classes of sequences, classes of tokens, answers.

A `Task` names the inputs that are labels, finds the labels that count, and turns outputs into rows of logits to
compare. A new head needs a new `Task`. losses.py has the formulas.

Shapes: B batch, T tokens, N labels, M labels that count, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.masking import IGNORED_LABEL, UNKNOWN_CLASS, UNKNOWN_VALUE
from ..models.architectures import HEADS, architecture_of
from ..models.architectures.architecture import (
    MASKED_LM,
    QUESTION_ANSWERING,
    REPLACED_TOKENS,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from .losses import Activation, multi_label_terms, prediction_terms, regression_terms, same

Inputs = Mapping[str, torch.Tensor]
Outputs = Mapping[str, torch.Tensor]
Terms = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
ONE_A_TOKEN = -1


@dataclass(frozen=True)
class Task:
    """One kind of prediction.

    Args:
        name: word in logs: `mlm` or `task`.
        required_labels: inputs that every evaluation needs.
        logits: outputs that predict them, in the same order.
        terms: student rows, teacher rows and labels → summed loss and summed KL.
        activation: of a predicted value, which labels are compared with.
        has_classes: whether the highest logit is a right or wrong prediction; without classes every label counts.
        has_vocabulary: whether the classes are a vocabulary; their logits are too many to hold in training.
        points: whether the classes are the sequence's own tokens.
        has_one_logit: whether two classes share one logit: the second class's; the first class's is 0.
        num_values: labels a row, or `ONE_A_TOKEN`; 0: not checked.
        label_range: the least and the greatest label; None: not checked.
    """

    name: str = "task"
    required_labels: tuple[str, ...] = ("labels",)
    logits: tuple[str, ...] = ("logits",)
    terms: Terms = prediction_terms
    activation: Activation = same
    has_classes: bool = True
    has_vocabulary: bool = False
    points: bool = False
    has_one_logit: bool = False
    num_values: int = 0
    label_range: tuple[float, float] | None = None

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

        Raises:
            ValueError: labels of another type or number than the task's, or out of its range.

        Example:
        ```python
        >>> batch = {"labels": torch.tensor([[-100, 7], [5, -100]]), "attention_mask": torch.ones(2, 2)}
        >>> {name: values.tolist() for name, values in _TASKS[MASKED_LM].with_positions(batch).items()}
        {'labels': [[-100, 7], [5, -100]], 'masked_positions': [1, 2]}

        ```
        """
        batch = dict(inputs)
        if "masked_positions" in batch:
            return batch
        # type and number first: no device waits for these
        for name in self.required_labels:
            labels = inputs[name]
            if self.has_classes and labels.is_floating_point():
                raise ValueError(
                    f"{name} of type {labels.dtype} don't fit a task of single classes; set config.problem_type of "
                    "the model to 'multi_label_classification' or 'regression', or make the labels integers"
                )
            if "input_ids" in inputs:
                num_rows, num_tokens = inputs["input_ids"].shape[:2]
                self.check_count(labels.numel() / max(1, num_rows), num_tokens, "a batch")
        labels, mask_BT = self._all_labels(inputs), inputs.get("attention_mask")
        # all three counts in one copy, as every copy waits for the device
        counted_N = self._counted(labels, inputs)
        num_padding = torch.zeros_like(counted_N).sum() if mask_BT is None else (mask_BT == 0).sum()
        num_wrong = self._is_outside(labels).sum()
        num_counted, is_padded, is_wrong = torch.stack([counted_N.sum(), num_padding, num_wrong]).tolist()
        if is_wrong:
            self.check_values(labels, "a batch")
        # Not `nonzero`, which would copy from the device once more.
        batch["masked_positions"] = counted_N.int().argsort(descending=True, stable=True)[:num_counted]
        if not is_padded:
            batch.pop("attention_mask", None)
        return batch

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
        logits = [outputs[name] for name in self.logits]
        if (
            self.points and "attention_mask" in inputs
        ):  # padding is no place for an answer, whatever the batch's length
            is_padding_BT = inputs["attention_mask"] == 0
            logits = [one.masked_fill(is_padding_BT, torch.finfo(one.dtype).min) for one in logits]
        # in the order of _all_labels: of answers all starts, then all ends
        rows_NC = torch.cat([one.flatten(0, -2) for one in logits])
        return rows_NC.index_select(0, inputs["masked_positions"])

    def guessed(self, labels: torch.Tensor, teacher_rows: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Return labels with guesses in place of unknown ones, for a loss that has to have a gradient at the start.

        A class is the teacher's likeliest. A number is the teacher's, 1 more or less: at the teacher's own the error
        of its copy has no gradient. The sign is a function of the row's tokens, whatever the batch.

        Args:
            labels: the result of `labels`.
            teacher_rows: the teacher's `rows`.
            inputs: the result of `with_positions`.
        """
        if self.has_classes:
            return torch.where(labels == UNKNOWN_CLASS, teacher_rows.argmax(-1), labels)
        # ±1 by the parity of the sum of a row's tokens, which padding doesn't change
        tokens_BT = inputs["input_ids"] * inputs.get("attention_mask", 1)
        signs_B1 = (tokens_BT.sum(-1, keepdim=True) % 2 * 2 - 1).index_select(0, inputs["masked_positions"])
        values = self.activation(teacher_rows)
        guess = (values > 0).to(values.dtype) if self.terms is multi_label_terms else values + signs_B1
        return torch.where(labels == UNKNOWN_VALUE, guess, labels.to(guess.dtype))

    def is_known(self, labels: torch.Tensor) -> torch.Tensor:
        """Whether each label of `labels` is none that stands for an unknown one; bool of the same shape."""
        return labels != (UNKNOWN_CLASS if self.has_classes else UNKNOWN_VALUE)

    def num_known(self, labels: torch.Tensor) -> torch.Tensor:
        """How many rows of `labels` are known, a scalar; one of several values counts by the share that is."""
        is_known = self.is_known(labels)
        return (is_known.float().mean(-1) if is_known.dim() > 1 else is_known).sum()

    def check_values(self, labels: torch.Tensor, where: str) -> None:
        """Refuse labels out of the task's range; `where` begins the message, and the host waits for the labels."""
        wrong = labels[self._is_outside(labels)]
        if self.label_range is None or not len(wrong):
            return
        _, most = self.label_range
        if self.has_classes:
            remedy = (
                f"expected 0 … {most}, as the model has {most + 1} classes, or {IGNORED_LABEL} for none: count them "
            )
            remedy += "from 0, and drop rows without a class"
        elif self.terms is multi_label_terms:
            remedy = "expected 0 or 1 for each class, or a share between; drop the row"
        elif self.activation is not same:
            least, most = self.label_range
            remedy = f"expected {least:g} to {most:g}, as the model's values end in {self.activation.__name__}: scale "
            remedy += "labels so, or leave them out"
        else:
            remedy = "expected a finite number; drop the row"
        raise ValueError(f"{where} has the label {wrong[0].item()}; {remedy}")

    def check_count(self, num_labels: float, num_tokens: int, where: str) -> None:
        """Refuse a row with more or fewer labels than the task has; `where` begins the message."""
        expected = num_tokens if self.num_values == ONE_A_TOKEN else self.num_values
        if not expected or num_labels == expected:
            return
        if self.num_values == ONE_A_TOKEN:
            remedy = f"expected one a token: give special tokens and further pieces of words {IGNORED_LABEL}"
        elif self.has_classes:
            remedy = "expected the number of one class; for several values a row, such as one-hot labels, set "
            remedy += "config.problem_type to 'multi_label_classification' or 'regression'"
        else:
            remedy = f"expected {expected}, one for each label of the model; for numbers of classes set "
            remedy += "config.problem_type to 'single_label_classification'"
        raise ValueError(f"{where} has {num_labels:g} labels in a row of {num_tokens} tokens; {remedy}")

    def _all_labels(self, inputs: Inputs) -> torch.Tensor:
        labels, *others = (inputs[name] for name in self.required_labels)
        labels = torch.cat([labels, *others]) if others else labels
        return labels.flatten().long() if self.has_classes else labels.view(len(labels), -1)

    def _is_outside(self, labels: torch.Tensor) -> torch.Tensor:
        if self.label_range is None:
            return torch.zeros_like(labels, dtype=torch.bool)
        least, most = self.label_range
        if self.has_classes:
            return ((labels < least) | (labels > most)) & (labels != IGNORED_LABEL) & self.is_known(labels)
        return ~((labels.float() >= least) & (labels.float() <= most)) & self.is_known(labels)  # NaN is in no range

    def _counted(self, labels: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        if not self.has_classes:
            return torch.ones_like(labels[:, 0], dtype=torch.bool)
        if not self.points:
            return labels != IGNORED_LABEL
        # Answers that were cut off lie outside the tokens; stock BERT ignores them too.
        return ((labels >= 0) & (labels < inputs["input_ids"].shape[1])) | ~self.is_known(labels)


def task_of(model: PreTrainedModel) -> Task:
    """Return the task of a model, from its class and `config.problem_type`."""
    head, config = HEADS.get(type(model).__name__), model.config
    if head is None:
        return Task("probe", has_classes=False)  # each label is a direction in which its units are scored
    if head.kind is SEQUENCE_CLASSIFICATION:
        return sequence_task(config)
    task = _TASKS[head.kind]
    if task.points:
        return task
    num_classes = config.vocab_size if task.has_vocabulary else 2 if task.has_one_logit else config.num_labels
    return replace(task, label_range=(0, num_classes - 1))


def sequence_task(config: PreTrainedConfig) -> Task:
    """Return the task of a sequence classifier, from its `problem_type` and its number of labels."""
    default = "regression" if config.num_labels == 1 else "single_label_classification"
    task = _SEQUENCE_TASKS[config.problem_type or default]
    if task.terms is regression_terms and (name := activation_name(config)) is not None:
        activation, label_range = _ACTIVATIONS[name]
        terms = partial(regression_terms, activation=activation)
        task = replace(task, terms=terms, activation=activation, label_range=label_range)
    if task.has_classes:
        return replace(task, label_range=(0, config.num_labels - 1))
    return replace(task, num_values=config.num_labels)


def activation_name(config: PreTrainedConfig) -> str | None:
    """What sentence-transformers puts behind the one value of a model, `sigmoid` or `tanh`; None: the value itself.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> activation_name(BertConfig(num_labels=1, sentence_transformers={"activation_fn": "torch.nn.Sigmoid"}))
    'sigmoid'

    ```
    """
    own, is_value = getattr(config, "sentence_transformers", None), config.problem_type in (None, "regression")
    told = own.get("activation_fn") if isinstance(own, dict) and is_value and config.num_labels == 1 else None
    name = told.rpartition(".")[2].lower() if isinstance(told, str) else None
    return name if name in _ACTIVATIONS else None


_ACTIVATIONS: dict[str, tuple[Activation, tuple[float, float]]] = {
    "sigmoid": (torch.sigmoid, (0.0, 1.0)),
    "tanh": (torch.tanh, (-1.0, 1.0)),
}
"""Name of an activation → itself, its least and its greatest value."""
_TASKS = {
    MASKED_LM: Task("mlm", has_vocabulary=True, num_values=ONE_A_TOKEN),
    TOKEN_CLASSIFICATION: Task(num_values=ONE_A_TOKEN),
    REPLACED_TOKENS: Task(has_one_logit=True, num_values=ONE_A_TOKEN),
    QUESTION_ANSWERING: Task(
        required_labels=("start_positions", "end_positions"),
        logits=("start_logits", "end_logits"),
        points=True,
        num_values=1,
    ),
}
_MOST = torch.finfo(torch.float32).max
_SEQUENCE_TASKS = {
    "single_label_classification": Task(num_values=1),
    "regression": Task(terms=regression_terms, has_classes=False, label_range=(-_MOST, _MOST)),
    "multi_label_classification": Task(terms=multi_label_terms, has_classes=False, label_range=(0, 1)),
}
