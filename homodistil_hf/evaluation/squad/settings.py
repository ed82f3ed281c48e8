"""How a model is fine-tuned for SQuAD: the settings of every fine-tuning, and those of windows and answers.

Light to import, because the command line shows these settings in its help. What is done with them stands in
`squad.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ...files.messages import shown
from ..settings import GlueSettings

_LEAST = {"stride": 0, "max_question_tokens": 1, "max_answer_tokens": 1, "num_best": 1}


@dataclass(frozen=True)
class WindowSettings:
    """How texts are cut into windows.

    Args:
        max_length: tokens of a window, question and special ones included.
        stride: tokens that two windows of a context share.
        max_question_tokens: tokens of a question that are read; the rest of it is not.

    Raises:
        ValueError: the windows would leave no room for more context than they share.
    """

    max_length: int = 384
    stride: int = 128
    max_question_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("max_length", "max_question_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive; nearest valid: 1")
        if self.stride < 0:
            raise ValueError(f"stride={self.stride} is negative; nearest valid: 0")

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that windows advance and that the tokenizer can tell where its tokens come from.

        Args:
            tokenizer: the model's.

        Raises:
            ValueError: no fast tokenizer, no token for the beginning, or no room.
        """
        name = type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise ValueError(f"tokenizer={name} has no offsets; expected a fast one, with a tokenizer.json")
        if tokenizer.cls_token_id is None:
            raise ValueError(f"tokenizer={name} has no cls_token, which stands for no answer; set tokenizer.cls_token")
        num_special = tokenizer.num_special_tokens_to_add(pair=True)
        shortest = self.max_question_tokens + num_special + self.stride + 1
        if self.max_length < shortest:
            raise ValueError(
                f"max_length={self.max_length} holds no new context beside max_question_tokens="
                f"{self.max_question_tokens}, {num_special} special tokens and stride={self.stride}; "
                f"nearest valid: {shortest}, or a smaller stride"
            )


@dataclass(frozen=True)
class SquadSettings(GlueSettings):
    """Settings of SQuAD fine-tuning, the same for every model of a comparison.

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> SquadSettings(stride=64).windows
    WindowSettings(max_length=384, stride=64, max_question_tokens=64)

    ```
    """

    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with squad_v2/train.parquet …; default: rajpurkar/squad_v2, Hub."}
    )
    max_length: int = field(default=384, metadata={"help": "Tokens a window, ≥ 8; longer contexts take several."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on at most so many questions, ≥ 8: always the same ones."}
    )
    stride: int = field(default=128, metadata={"help": "Tokens that two windows of a context share, ≥ 0."})
    max_question_tokens: int = field(default=64, metadata={"help": "Tokens of a question that are read, ≥ 1."})
    max_answer_tokens: int = field(default=30, metadata={"help": "Longest answer, in tokens, ≥ 1."})
    num_best: int = field(default=20, metadata={"help": "Spans of each window that compete, ≥ 1."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={shown(value)} is out of range; expected a whole number, {least} or more")

    @property
    def windows(self) -> WindowSettings:
        """How texts are cut."""
        return WindowSettings(self.max_length, self.stride, self.max_question_tokens)
