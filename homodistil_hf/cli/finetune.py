"""`homodistil finetune`: one task model of labelled rows; beside a teacher the same run as `distill --start`.

`evaluation/fine_tuning.py` trains without a teacher, `runs/task.py` beside one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..files.messages import short_repr
from ..tables import figures_line
from .command import SettingsCommand, log_progress

_OF_A_RUN = {
    **{"model": "start", "max_length": "max_seq_length", "batch_size": "per_device_train_batch_size"},
    **{"max_train_steps": "max_steps", "warmup_fraction": "warmup_steps", "dropout_fraction": "student_dropout"},
}
"""Settings that have another name in a run beside a teacher; all others have the same."""
_PLAIN_ONLY = ("learning_rates", "max_train_samples")


@dataclass
class Finetune(SettingsCommand):
    """Fine-tune a model on a task of your own, plainly or beside a fine-tuned teacher."""

    settings: ClassVar[str] = "homodistil_hf.evaluation.fine_tuning:OwnTaskSettings"
    example: ClassVar[str] = "homodistil finetune examples/configs/finetune.json --teacher runs/my-teacher/model"
    main_settings: ClassVar[tuple[str, ...]] = (
        *("model", "teacher", "train_data", "eval_data", "text_columns", "label_column", "output_dir"),
    )

    def run_with(self, settings: Any, given: Mapping[str, Any]) -> int:
        """Fine-tune, print what was measured, and write the report."""
        from ..export.report import closing_line, try_report

        if settings.teacher is None:
            from ..evaluation.fine_tuning import fine_tune_own
            from ..files.run_names import MODEL_FOLDER

            results = fine_tune_own(settings, log_progress)
            metrics, num_rows = figures_line(results["metrics"]), results["num_eval_rows"]
            print(f"{metrics} on {num_rows:,} rows: {settings.output_dir}/{MODEL_FOLDER}")
            try_report(settings.output_dir)
        else:
            from ..runs.config import run_of
            from ..runs.distill import run
            from ..runs.kinds import run_kind_of

            named = {name: value for name, value in vars(settings).items() if name in given and value is not None}
            beside = run_of(run_beside_teacher(named), "finetune")
            print(run_kind_of(beside).summary(run(beside, log_progress), beside.output_dir))
        print(closing_line(settings.output_dir))
        return 0


def run_beside_teacher(named: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `homodistil distill --start` that are those of a fine-tuning beside a teacher.

    Args:
        named: settings of the fine-tuning that were given, by name; all others are left to the run.

    Raises:
        ValueError: a setting that a run beside a teacher hasn't.
    """
    from ..evaluation.fine_tuning import training_dtype

    for name in _PLAIN_ONLY:
        if named.get(name):
            raise ValueError(
                f"{name}={short_repr(named[name])} has no place beside teacher={named['teacher']!r}: this is the run "
                "of homodistil distill --start, which has one learning_rate and all rows; leave it out"
            )
    if "num_train_epochs" in named and "max_train_steps" in named:
        raise ValueError(
            f"num_train_epochs={named['num_train_epochs']} with max_train_steps={named['max_train_steps']} has no "
            f"place beside teacher={named['teacher']!r}, where so many steps are taken; give one of them"
        )
    run = {
        _OF_A_RUN.get(name, name): value
        for name, value in named.items()
        if name not in ("dtype", "resume", *_PLAIN_ONLY)
    }
    run |= {name: [run[name]] for name in ("train_data", "eval_data") if name in run}
    run |= {"text_columns": list(run["text_columns"])} if "text_columns" in run else {}
    run |= {"bf16": training_dtype(named["dtype"]) == "bfloat16"} if "dtype" in named else {}
    return run | ({"resume_from_checkpoint": "last"} if named.get("resume") else {})
