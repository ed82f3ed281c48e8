"""From a trainer to a folder: exports, and what they tell about the run.

Which student an export holds is decided in `outcome.py`, how a folder is written in `export.py`; it gets to the Hub in
`pushing.py`. Training is `trainer.py`'s business.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..export.dense_student import check_finished, compacted_copy
from ..export.export_folder import export_student
from .evaluation_loop import MeasuringTrainer


class ExportingTrainer(MeasuringTrainer):
    """`MeasuringTrainer` whose student can be exported; subclasses count their bad steps."""

    method: str = "homodistil"
    """Name in `registry.METHODS`; checkpoints and exports tell it."""
    method_settings: dict[str, Any] = {}
    """Settings of the method's own, beside those in `args`."""
    num_bad_steps: int
    num_skipped_tokens: int
    teacher_evaluation: Mapping[str, float] = {}
    """Held-out metrics of the teacher, for the card; whoever measures them sets them."""

    def export(self, folder: str | Path, format: str = "standard", *, allow_partial: bool = False) -> Path:
        """Write the student to a folder that loads with `from_pretrained`; see [`export_student`].

        To be called on all ranks; the main process writes.

        Args:
            folder: where to; an earlier export there is replaced.
            format: `"standard"` (stock BERT) or `"compact"`.
            allow_partial: also export a student that has not reached its plan, at the nearest possible widths.

        Returns:
            `Path`: the folder.

        Raises:
            ValueError: the plan has not been reached, or the folder holds something else.
        """
        check_finished(self.pruner, allow_partial=allow_partial)  # on all ranks, or some would wait for ever
        if self.is_world_process_zero():
            self._write_export(Path(folder), format, allow_partial=allow_partial)
        self.accelerator.wait_for_everyone()
        return Path(folder)

    def _write_export(
        self,
        folder: Path,
        format: str = "standard",
        *,
        allow_partial: bool = False,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        facts = self.run_facts()
        facts["training"] |= training or {}
        export_student(
            compacted_copy(self.pruner, format=format, allow_partial=allow_partial),
            folder,
            format,
            tokenizer=self.processing_class if isinstance(self.processing_class, PreTrainedTokenizerBase) else None,
            teacher=self.distillation.teacher.exact,
            facts=facts,
            overwrite=True,
        )

    def run_facts(self) -> dict[str, dict[str, Any]]:
        """What an export tells about this run: all settings, how long it was, and the last evaluation.

        Returns:
            `dict`: `settings`, `training`, `evaluation`, `teacher_evaluation`.
        """
        evaluations = [entry for entry in self.state.log_history if any(name.startswith("eval_") for name in entry)]
        timings = ("runtime", "per_second", "preparation_time")
        return {
            "settings": self.args.to_sanitized_dict() | dict(self.method_settings),
            "training": {
                "method": self.method,
                "num_steps": self.state.global_step,
                "num_epochs": self.state.epoch,
                "num_bad_steps": self.num_bad_steps,
                "num_skipped_tokens": self.num_skipped_tokens,
                **self.pruner.status(),
            },
            "evaluation": {
                name.removeprefix("eval_"): value
                for name, value in (evaluations[-1] if evaluations else {}).items()
                if name.startswith("eval_") and not name.endswith(timings)
            },
            "teacher_evaluation": dict(self.teacher_evaluation),
        }
