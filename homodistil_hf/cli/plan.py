"""`homodistil plan`: how wide a student will be and what it costs. `runs/plan.py` finds both."""

import json
from dataclasses import dataclass
from typing import ClassVar

from ..files.settings import flag
from .command import Command, log_progress, show_logs


@dataclass(kw_only=True)
class Plan(Command):
    """Say how wide a student will be and what it costs, from the teacher's configuration alone."""

    example: ClassVar[str] = "homodistil plan --teacher google-bert/bert-base-uncased --student macs=0.25"
    usage = "homodistil plan --teacher TEACHER --student STUDENT [--key value …]"
    teacher: str = flag("Hub name or folder of a model")
    student: str | None = flag(
        "preset, budget (params=14M, macs=0.25, compact_macs=0.25, with ,num_attention_heads=8, ,hidden_size=216 or "
        ",layers=4 behind it), milliseconds here (latency_ms=5, with ,batch_size=1 ,length=128 ,backend=onnxruntime), "
        "short plan (216-9x24-528; 4x216-9x24-528 of 4 layers), JSON file or object; default: of --config",
        default=None,
    )
    num_tokens: float | None = flag("to train on, e.g. 2e6: how, and what was measured", default=None, metavar="N")
    time: bool = flag("minutes and memory, by steps here; with --train_data or --config", default=False)
    train_data: list[str] = flag("time: rows or text of the run", default=[], metavar="X")
    config: str | None = flag("time: JSON file with settings of the run", default=None, metavar="CONFIG.json")
    vocabulary: str | None = flag(
        "with --text: tokens that stay, coverage=0.999, keep=16384, min_count=5, a file; beside other sizes",
        default=None,
        metavar="V",
    )
    text: list[str] = flag(
        "vocabulary: text whose tokens are counted, files or Hub data sets", default=[], metavar="X"
    )
    teacher_revision: str | None = flag("branch, tag or commit on the Hub", default=None, metavar="REVISION")
    plain: bool = flag("keep the hidden size: no Dense, and heads fit", default=False)
    width_multiple: int | None = flag("budgets: round widths to multiples (default: 8)", default=None, metavar="N")
    json: bool = flag("print JSON for machines", default=False)

    def __post_init__(self) -> None:
        if self.student is None and self.config is None:
            raise ValueError("the argument --student is required; see homodistil plan --help")
        if self.width_multiple is not None and self.width_multiple < 1:
            raise ValueError(
                f"width_multiple={self.width_multiple} is not a whole number of at least 1; the default is 8"
            )
        if bool(self.text) != (self.vocabulary is not None):
            raise ValueError("--vocabulary is chosen by the tokens of a text; give --text with it, or neither")
        if self.time != bool(self.train_data or self.config):
            raise ValueError(
                "--time takes steps of a run; give --time with --train_data or --config, or neither of them"
            )
        if self.time and self.vocabulary is not None:
            raise ValueError("--time with --vocabulary: trim first (homodistil trim), and time the trimmed teacher")

    def run(self) -> int:
        """Print the plan."""
        from ..runs.plan import answer

        show_logs()
        facts, words = answer(self, log_progress)
        print(json.dumps(facts, indent=2) if self.json else words)
        return 0
