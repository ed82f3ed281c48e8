"""`homodistil trim`: a smaller vocabulary for a model, without training. `vocabulary` chooses the tokens."""

import json
from dataclasses import dataclass
from typing import ClassVar

from ..files.settings import flag
from .command import Command, log_progress, show_logs


@dataclass(kw_only=True)
class Trim(Command):
    """Leave out tokens that a text hardly needs, of a model and its tokenizer; nothing is trained."""

    example: ClassVar[str] = (
        "homodistil trim xlm-roberta-base --text my/*.txt --vocabulary keep=65536 --output trimmed"
    )
    teacher: str = flag("Hub name or folder of a model", positional=True, metavar="TEACHER")
    text: list[str] = flag("text whose tokens are counted: files, folders, globs or Hub data sets")
    vocabulary: str = flag(
        "keep=16384 (tokens), min_count=5 (occurrences; default), coverage=0.999 (of the text), or a file with a "
        "token a line",
        default="min_count=5",
    )
    output: str | None = flag("folder to write; without it, what would stay is printed", default=None, metavar="DIR")
    text_column: str | None = flag("column with the text, or two with a comma between", default=None)
    teacher_revision: str | None = flag("branch, tag or commit on the Hub", default=None)
    tokenizer: str | None = flag("Hub name or folder; default: the teacher's own", default=None)
    overwrite: bool = flag("replace an earlier export in DIR", default=False)
    json: bool = flag("print JSON for machines", default=False)

    def run(self) -> int:
        """Trim, or print what trimming would do."""
        from ..runs.trim import TrimSource, format_trimming, plan_trimming, trim_to_folder

        show_logs()
        source = TrimSource(
            self.teacher,
            self.vocabulary,
            self.text,
            self.text_column,
            revision=self.teacher_revision,
            tokenizer=self.tokenizer,
        )
        if self.output is None:
            facts = plan_trimming(source, log_progress).facts
            print(json.dumps(facts, indent=2) if self.json else format_trimming(facts))
            return 0
        facts = trim_to_folder(source, self.output, log_progress, overwrite=self.overwrite)["trimming"]
        print(json.dumps(facts, indent=2) if self.json else f"written to {self.output}")
        return 0
