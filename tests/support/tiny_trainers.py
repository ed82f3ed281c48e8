"""A trainer of the tiny teacher's student, quiet and on the CPU."""

from pathlib import Path
from typing import Any

from tiny_models import make_blocks, make_teacher, tiny_tokenizer

from homodistil_hf import HomoDistilTrainer

QUARTER = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
"""Widths of a student with a quarter of the tiny teacher's MACs."""
SIXTEENTH = {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 16}


def tiny_trainer(
    folder: Path, *, model: Any = None, trainer_class: type[HomoDistilTrainer] = HomoDistilTrainer, **settings: Any
) -> HomoDistilTrainer:
    """A trainer to a quarter of the tiny teacher's MACs; takes training arguments and the trainer's own arguments.

    It prunes as users have it, before the first step, by few batches; `**GRADUAL` asks for the paper's way.
    """
    kind = trainer_class.arguments_class
    given = {name: settings.pop(name) for name in list(settings) if name not in kind.__dataclass_fields__}
    defaults = {
        "output_dir": str(folder),
        "student": QUARTER,
        "max_steps": 20,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "teacher_dtype": "float32",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if "num_scoring_batches" in kind.__dataclass_fields__ and settings.get("importance_metric") != "magnitude":
        defaults["num_scoring_batches"] = 2
    defaults = {name: value for name, value in defaults.items() if name not in kind.no_part}
    data = {"train_dataset": make_blocks(), "eval_dataset": make_blocks(16, seed=1)}
    data["processing_class"] = tiny_tokenizer()
    return trainer_class(make_teacher() if model is None else model, kind(**defaults | settings), **data | given)
