"""Python that uses a fine-tuned model, by what it predicts: for its card, and for the last lines of a run."""

from collections.abc import Sequence

from ..tasks.kinds import CLASSES, LABELS, TAGS, VALUES

_PIPELINES = {
    CLASSES: '"text-classification", {model}',
    LABELS: '"text-classification", {model}, top_k=None',
    VALUES: '"text-classification", {model}, function_to_apply="none", top_k=None',
    TAGS: '"token-classification", {model}, aggregation_strategy="first"',
}
_PAIR = '{{"text": {}, "text_pair": {}}}'


def has_pipeline(kind: object) -> bool:
    """Whether transformers has a pipeline for what a model predicts; it has none for answers."""
    return isinstance(kind, str) and kind in _PIPELINES


def pipeline_call(kind: str, model: str, texts: Sequence[str]) -> str:
    """Return an expression that predicts.

    `kind` is one of `tasks/kinds.py`; `model` is Python, the arguments that name it; a pair has two `texts`.

    Example:
    ```python
    >>> pipeline_call("several labels", "model, tokenizer=tokenizer", ["Well done."])
    'pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)("Well done.")'

    ```
    """
    quoted = [f'"{text}"' for text in texts]
    example = quoted[0] if len(texts) == 1 else _PAIR.format(*quoted)
    return f"pipeline({_PIPELINES[kind].format(model=model)})({example})"
