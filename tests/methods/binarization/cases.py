"""What the tests of all methods take from layers of bits: see tests/support/methods_here.py."""

import copy
from pathlib import Path
from typing import Any

from resumed_runs import QUIET, Run
from tiny_models import make_blocks, make_teacher
from transformers import Trainer

from homodistil_hf.methods.binarization.binarizing import to_binary
from homodistil_hf.methods.binarization.trainer import BinarizationArguments, BinarizationTrainer

PUBLIC_NAMES = ["BinarizationArguments", "BinarizationTrainer", "export_packed", "multiply_bits", "to_binary"]


def binarizing(make_trainer: Any, folder: Path, *, callbacks: Any = None, **settings: Any) -> Trainer:
    teacher = make_teacher("sequence_classification", hidden_dropout_prob=0.1)
    rows = make_blocks().map(lambda row: {"labels": row["input_ids"][1] % 2}).remove_columns("example_id")
    args = BinarizationArguments(per_device_train_batch_size=8, learning_rate=1e-3, **QUIET | settings)
    model = to_binary(copy.deepcopy(teacher), activation_bits=2)
    return BinarizationTrainer(model, args, teacher_model=teacher, train_dataset=rows, callbacks=callbacks)


RESUMED = {
    "bit": Run({"max_steps": 6}, binarizing),
    # the order of these comes from the global generator, in a later pass too
    "bit, rows grouped by length": Run(
        {"max_steps": 12, "train_sampling_strategy": "group_by_length"}, binarizing, steps=(3, 10)
    ),
}
