"""The settings of one run of `homodistil distill`: its teacher, its text and its method, beside those of training.

Settings of the training: the `arguments_class` of each trainer. `config.py` reads all of them.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.messages import Log as Log
from ..files.messages import short_repr
from ..files.settings import ROW_LENGTH, check_fields, setting


@dataclass
class RunArguments:
    """Teacher, text and method of a run; everything else is in the method's `arguments_class`.

    Raises:
        ValueError: a value is missing or out of range.
    """

    teacher: str = setting("", "Model of masked words, of a task or of embeddings: Hub name or folder.")
    method: str = setting(
        "homodistil",
        "homodistil, a baseline (one_shot, scratch, …), self_distillation, bit; embedding and "
        "reranker are found by the teacher.",
    )
    recipe: str | None = setting(
        None, "paper: start from the settings of HomoDistil's paper; settings that are given override them."
    )
    further_pretraining: dict[str, Any] | str | None = setting(
        None, "JSON object with settings of self_distillation, which the teacher first goes through."
    )
    vocabulary: str | None = setting(
        None, "Trim the teacher's vocabulary first: coverage=0.999, keep=16384, min_count=5, or a file of tokens."
    )
    start: str | None = setting(
        None, "Tasks: a small model, general or of the same task, which learns beside the teacher at its own widths."
    )
    teacher_revision: str | None = setting(None, "Branch, tag or commit of the teacher on the Hub.")
    tokenizer: str | None = setting(None, "Hub name or folder; default: the teacher's own.")
    train_data: list[str] = setting(
        [], "Files (.parquet, .json, .jsonl, .csv, .txt), folders, globs or Hub data sets."
    )
    eval_data: list[str] = setting([], "Like train_data, for evaluation; default: a part of train_data is held out.")
    text_column: str | None = setting(None, "Column with the text; default: text, or the only column of strings.")
    text_columns: list[str] = setting(
        [], "Tasks: one column, two of a pair, or question and context; default: by usual names."
    )
    label_column: str | None = setting(
        None, "Tasks: column with labels, or one for each value or class, with commas; default: by usual names."
    )
    train_split: str = setting("train", "Split of a Hub data set or folder to train on.")
    eval_split: str = setting("validation", "Split of eval_data to evaluate on.")
    train_prompts: list[str] = setting(
        [], "Embedding models: of each of train_data the name of its prompt, or an empty one for none."
    )
    train_weights: list[float] = setting(
        [], "Embedding models, rerankers: passes over each of train_data in an epoch, > 0; default: one."
    )
    max_seq_length: int | None = setting(
        None,
        "Tokens a block, special ones included; 8 … the teacher's positions "
        f"(default: {ROW_LENGTH}, or the positions; of a task what 99 of 100 rows fit into).",
        least=8,
    )
    packing: bool = setting(
        True, "Masked words: documents share blocks; else a row each, as for proteins and molecules."
    )
    max_eval_blocks: int = setting(1024, "Evaluate on at most so many blocks, ≥ 1.", least=1)
    line_by_line: bool = setting(False, "Masked words: text files hold a document a line, not one a paragraph.")
    streaming: bool = setting(False, "Read and tokenize train_data while training; needs max_steps.")
    preprocessing_num_workers: int | None = setting(
        None, "Processes that tokenize, ≥ 1; default: one, whose tokenizer uses all cores.", least=1
    )

    train_setting = "train_data"
    """The setting that names what is trained on."""
    needed = {"teacher": "google-bert/bert-base-uncased", "train_data": "corpus/*.parquet"}
    """What has to be set: name → an example."""

    def __post_init__(self) -> None:
        for name, example in self.needed.items():
            if not getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not set; name one in CONFIG or as --{name} {example}"
                )
        check_fields(self)
        if self.text_columns:
            joined = ",".join(self.text_columns)
            if self.text_column not in (None, joined):
                raise ValueError(
                    f"text_column={short_repr(self.text_column)} beside text_columns={short_repr(self.text_columns)}: "
                    "leave one of them out"
                )
            self.text_column = joined
        if self.start is not None and self.vocabulary is not None:  # before the teacher is trimmed
            raise ValueError(
                f"vocabulary={short_repr(self.vocabulary)} beside start={self.start!r}: the student keeps the words "
                "of its start; leave out one of them"
            )
        for name in ("train_prompts", "train_weights"):
            if (values := getattr(self, name)) and len(values) != len(self.train_data):
                raise ValueError(
                    f"{name}={short_repr(values)} has {len(values)} entries for {len(self.train_data)} of train_data"
                )
        if any(not 0 < weight < math.inf for weight in self.train_weights):
            weights = short_repr(self.train_weights)
            raise ValueError(f"train_weights={weights}: expected finite numbers > 0; leave sources out")

    @property
    def row_length(self) -> int:
        """Tokens a block, by default as many as any teacher may have."""
        return self.max_seq_length or ROW_LENGTH


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run.

    Args:
        run: teacher, text and method: [`RunArguments`], or the one dataclass of a run without `training`.
        training: of the method's trainer; None where `run` has them all and the run is one process.
        given: name → plain value of each setting that differs from its default, or was named and may have another
            default in this run; as JSON it is a config of this run.
        members: where `student` is a list, the runs that it stands for, each with a folder in `output_dir`.
    """

    run: Any
    training: Any
    given: dict[str, Any]
    members: tuple["RunConfig", ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this is the process whose lines the user reads."""
        return self.training is None or self.training.process_index == 0

    @property
    def output_dir(self) -> str:
        """The folder of the run."""
        return str((self.training or self.run).output_dir)

    @property
    def recorded(self) -> dict[str, Any]:
        """What `settings.json` holds: `given`, and a teacher's folder by its whole path, for commands elsewhere."""
        teacher = self.given.get("teacher")
        if not isinstance(teacher, str) or not Path(teacher).is_dir():
            return self.given
        return self.given | {"teacher": str(Path(teacher).absolute())}

    @property
    def folder(self) -> Path:
        """The same as a path."""
        return Path(self.output_dir)
