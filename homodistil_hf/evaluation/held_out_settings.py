"""What a discrepancy is measured on: one typed setting each, checked when they are made.

Light to import, because the command line shows these settings in its help; `discrepancy.py` uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..files.messages import shown
from .settings import check_names


@dataclass(frozen=True)
class DiscrepancySettings:
    """Settings of [`evaluate_discrepancy`]; the defaults for masks and blocks are those of `homodistil distill`.

    Raises:
        ValueError: a value is missing or out of range.

    Example:
    ```python
    >>> DiscrepancySettings(eval_data="held-out.txt").eval_data
    ('held-out.txt',)

    ```
    """

    eval_data: tuple[str, ...] = field(
        default=(), metadata={"help": "Held-out text: files, folders, globs or Hub data sets."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column with the text; default: text."})
    eval_split: str = field(default="validation", metadata={"help": "Split of a Hub data set or folder."})
    max_seq_length: int = field(default=128, metadata={"help": "Tokens a block of held-out text."})
    max_eval_blocks: int = field(default=1024, metadata={"help": "Measure on at most so many blocks, ≥ 1."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are masked, in (0, 1)."})
    mask_seed: int = field(default=42, metadata={"help": "Seed of the masks; the same for every model compared."})
    pseudo_perplexity_blocks: int = field(
        default=16, metadata={"help": "Blocks whose tokens are masked one at a time, ≥ 0."}
    )

    def __post_init__(self) -> None:
        given = self.eval_data
        object.__setattr__(self, "eval_data", (given,) if isinstance(given, str) else tuple(given))
        if not self.eval_data:
            raise ValueError("eval_data is not set; name held-out text, e.g. --eval_data corpus/validation.parquet")
        for name, least in (("max_eval_blocks", 1), ("pseudo_perplexity_blocks", 0), ("max_seq_length", 8)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name}={shown(value)} is too small; nearest valid: {least}")

    @classmethod
    def from_values(cls, values: DiscrepancySettings | Mapping[str, Any]) -> DiscrepancySettings:
        """Make settings of what a caller gave.

        Args:
            values: settings, or some of them by name.

        Returns:
            [`DiscrepancySettings`].

        Raises:
            ValueError: an unknown name, or a value out of range.
        """
        if isinstance(values, DiscrepancySettings):
            return values
        check_names(values, cls)
        return cls(**values)

    def compared(self) -> dict[str, Any]:
        """What must be equal for two results to be comparable, the text apart.

        Returns:
            `dict`: name → plain value.
        """
        left_out = ("eval_data", "text_column", "eval_split")
        return {name: value for name, value in asdict(self).items() if name not in left_out}
