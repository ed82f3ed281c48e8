"""What a model predicts: masked words, one class of several, several labels, values, tags of words or answers."""

from transformers import PreTrainedConfig

from ..files.messages import first_of
from ..models.architectures import HEADS
from ..models.architectures.architecture import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION

MASKED_WORDS, CLASSES, LABELS = "masked words", "classes", "several labels"
VALUES, TAGS, ANSWERS = "values", "tags", "answers"
"""What a model predicts: of a text one class, several labels or values; tags of its words; answers to questions."""
IS_CONSTANT = "is_constant"
"""Stands, true, beside metrics of a teacher that answers all rows alike, or of rows whose labels are all alike."""


def task_kind_of(config: PreTrainedConfig, class_name: str | None = None) -> str:
    """Return the kind of a model; `class_name` is its class, default: the one that its configuration names.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> task_kind_of(BertConfig(num_labels=1), "BertForSequenceClassification")
    'values'

    ```
    """
    head = HEADS.get(class_name or (config.architectures or [""])[0])
    kind = head.kind if head else None
    if kind is SEQUENCE_CLASSIFICATION:
        default = "regression" if config.num_labels == 1 else "single_label_classification"
        kinds = {"regression": VALUES, "multi_label_classification": LABELS}
        return kinds.get(config.problem_type or default, CLASSES)
    return TAGS if kind is TOKEN_CLASSIFICATION else ANSWERS if kind is QUESTION_ANSWERING else MASKED_WORDS


def names_of(config: PreTrainedConfig) -> list[str]:
    """Names of a model's classes, by number.

    Raises:
        ValueError: they aren't numbered from 0.
    """
    if lacking := {*range(config.num_labels)} - config.id2label.keys():
        raise ValueError(
            f"id2label of the model's config has no class {min(lacking)}, only {first_of(map(str, config.id2label))}; "
            "number them from 0, as the outputs of its head are"
        )
    return [config.id2label[number] for number in range(config.num_labels)]


def has_default_names(config: PreTrainedConfig) -> bool:
    """Whether nobody named a model's classes: `LABEL_0`, `LABEL_1`, …."""
    return names_of(config) == [f"LABEL_{number}" for number in range(config.num_labels)]


def describe_kind(config: PreTrainedConfig, kind: str) -> str:
    """Say what a model predicts.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> describe_kind(BertConfig(), CLASSES)
    'one class of 2 (LABEL_0, LABEL_1) a text'

    ```
    """
    names = names_of(config)
    shown = f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    if kind == VALUES:
        return "a value a text: a regression" if len(names) == 1 else f"{len(names)} values a text: a regression"
    return {
        CLASSES: f"one class of {len(names)} ({shown}) a text",
        LABELS: f"any of {len(names)} labels ({shown}) a text",
        TAGS: f"a tag of {len(names)} ({shown}) a word",
        ANSWERS: "answers to questions, as parts of a context",
        MASKED_WORDS: "masked words",
    }[kind]
