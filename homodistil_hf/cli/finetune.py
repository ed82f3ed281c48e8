"""`homodistil finetune`: one task model of labelled rows; `evaluation/own_task.py` trains it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..tables import figures_line
from .command import SettingsCommand, log_progress


@dataclass
class Finetune(SettingsCommand):
    """Fine-tune a model on a task of your own, plainly or beside a fine-tuned teacher."""

    example: ClassVar[str] = "homodistil finetune examples/configs/finetune.json --teacher runs/my-teacher/model"
    settings: ClassVar[str] = "homodistil_hf.evaluation.own_task:OwnTaskSettings"
    main_settings: ClassVar[tuple[str, ...]] = (
        *("model", "teacher", "train_data", "eval_data", "text_columns", "label_column", "output_dir"),
    )

    def run_with(self, settings: Any) -> int:
        """Fine-tune, print what was measured, and write the report."""
        from ..evaluation.own_task import fine_tune_own
        from ..export.report import closing_line, try_report
        from ..files.run_names import MODEL_FOLDER

        results = fine_tune_own(settings, log_progress)
        metrics = figures_line(results["metrics"])
        teacher = f" (teacher: {figures_line(found)})" if (found := results.get("teacher_metrics")) else ""
        print(f"{metrics}{teacher} on {results['num_eval_rows']:,} rows: {settings.output_dir}/{MODEL_FOLDER}")
        try_report(settings.output_dir)
        print(closing_line(settings.output_dir))
        return 0
