"""`homodistil distill`: one run of any method, as a JSON file and flags ask for it; `runs/distill.py` runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..files.settings import help_and_default
from .command import HELP_ALL, Command, show_logs

_USAGE = """usage: homodistil distill CONFIG.json [--key value ...]

Distil and prune a model of masked words, of a task or of embeddings. CONFIG.json holds settings by name; flags of the
same names override it.

  homodistil distill examples/configs/smoke.json --max_steps 50
  torchrun --nproc_per_node 8 -m homodistil_hf distill CONFIG.json --resume_from_checkpoint last

The most important settings (--help_all lists every one, TrainingArguments' included):
"""
# Those of the training in short, as their class would import torch; None: as `RunArguments` describes it.
_MAIN_SETTINGS = {
    "teacher": None,
    "teacher_vectors": "In place of a teacher: files of texts and its vectors; --start names the student's start.",
    "student": "Widths to reach: preset, budget (macs=0.25), plan (216-9x24-528), file; a JSON list makes a family.",
    "start": None,
    "method": None,
    "train_data": None,
    "eval_data": None,
    "output_dir": "Folder of the run: checkpoints, student/, results.json.",
    "text_column": None,
    "text_columns": None,
    "label_column": None,
    "max_seq_length": None,
    "max_steps": "Optimizer steps; default: num_train_epochs, 3 passes.",
    "per_device_train_batch_size": "Rows of a micro-batch on each device; default: 16.",
    "gradient_accumulation_steps": "Micro-batches of a step; default: 1.",
    "learning_rate": "Peak learning rate; default: by the tokens of a step, see docs/method.md.",
    "pruning_end_fraction": "Share of all steps, above 0, at which the plan is reached; default: 0.3.",
    "bf16": "Train in bfloat16; default: false.",
    "seed": "Seed of masks and data order; default: 42.",
    "resume_from_checkpoint": "last, a checkpoint folder, or hf://user/name on the Hub: go on with a run.",
}


@dataclass
class Distill(Command):
    """Distil and prune a teacher with the settings of a JSON file."""

    @classmethod
    def main(cls, name: str, words: Sequence[str]) -> int:
        """Run the command, with every setting of the method as a flag."""
        if not words or {"-h", "--help"} & set(words):
            from ..runs.settings import RunArguments

            described = {entry.name: help_and_default(entry) for entry in fields(RunArguments)}
            width = max(map(len, _MAIN_SETTINGS))
            lines = [f"  --{key.ljust(width)}  {text or described[key]}" for key, text in _MAIN_SETTINGS.items()]
            print(_USAGE + "\n".join(lines))
            return 0 if words else 2
        from ..runs.config import help_of, parse_run

        if HELP_ALL in words:
            print(help_of([word for word in words if word != HELP_ALL]))
            return 0
        from ..runs.distill import run
        from ..runs.kinds import run_kind_of
        from ..training.ranks import leave_process_group

        settings = parse_run(words)
        show_logs(settings.is_main)
        results = run(settings)
        if results and settings.is_main:
            from ..export.report import closing_line

            print(run_kind_of(settings).summary(results, settings.output_dir))
            print(f"\n{closing_line(settings.output_dir)}")
        leave_process_group()
        return 0
