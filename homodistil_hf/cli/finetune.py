"""`homodistil finetune`: a JSON file and flags that override it → one task model. How it is trained isn't here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .parsing import flag, parse_over_config, show_logs, tell

_MAIN_SETTINGS = ("model", "teacher", "train_data", "eval_data", "text_columns", "label_column", "output_dir")


@dataclass(kw_only=True)
class Finetune:
    """Fine-tune a model on a task of your own, plainly or beside a fine-tuned teacher."""

    example: ClassVar[str] = "homodistil finetune examples/configs/finetune.json --teacher runs/my-teacher/model"
    config: str | None = flag("settings by name", default=None, positional=True, nargs="?", metavar="CONFIG.json")


def run_finetune(words: Sequence[str]) -> int:
    """Run the command, with every setting as a flag, and return its exit status."""
    from ..evaluation.fine_tuning import settings_from
    from ..evaluation.own_task import MODEL_FOLDER, OwnTaskSettings, fine_tune_own

    page = "docs/evaluation.md"
    _, values = parse_over_config("finetune", words, Finetune, OwnTaskSettings, shown_names=_MAIN_SETTINGS, page=page)
    show_logs()
    settings = settings_from(OwnTaskSettings, values)
    results = fine_tune_own(settings, tell)
    told = ", ".join(f"{name} {value:.4f}" for name, value in results["metrics"].items())
    print(f"{told} on {results['num_eval_rows']:,} rows: {settings.output_dir}/{MODEL_FOLDER}")
    return 0
