"""`homodistil finetune`: a JSON file and flags that override it → one task model. How it is trained isn't here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from ..files.strict_json import read_json_object
from .parsing import flag, parse, settings_flags, show_logs, tell

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

    others = [entry.name for entry in fields(OwnTaskSettings) if entry.name not in _MAIN_SETTINGS]
    epilog = f"\nfurther settings (docs/evaluation.md): {' '.join(f'--{name}' for name in others)}"
    flags, given = parse("finetune", words, Finetune, settings_flags([OwnTaskSettings], _MAIN_SETTINGS), epilog=epilog)
    show_logs()
    values = read_json_object(flags.config, f"config={flags.config!r}") if flags.config else {}
    values |= {name: value for name, value in vars(given).items() if value is not None}
    settings = settings_from(OwnTaskSettings, values)
    results = fine_tune_own(settings, tell)
    told = ", ".join(f"{name} {value:.4f}" for name, value in results["metrics"].items())
    print(f"{told} on {results['num_eval_rows']:,} rows: {settings.output_dir}/{MODEL_FOLDER}")
    return 0
