"""What the tests of all methods take from self-distillation: see tests/support/methods_here.py."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from resumed_runs import QUIET, Run
from tiny_models import make_blocks, make_teacher, randomized, tiny_tokenizer
from transformers import Trainer

from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments, SelfDistillTrainer

PUBLIC_NAMES = ["SelfDistillTrainer", "SelfDistillationArguments", "self_distill"]


def self_distilling(
    make_trainer: Any, folder: Path, *, has_teacher: bool, callbacks: Any = None, **settings: Any
) -> Trainer:
    model = make_teacher()
    teacher = randomized(copy.deepcopy(model), seed=7) if has_teacher else None
    args = SelfDistillationArguments(per_device_train_batch_size=8, learning_rate=1e-3, **QUIET | settings)
    data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
    return SelfDistillTrainer(model, args, teacher_model=teacher, callbacks=callbacks, **data)


RESUMED = {
    "self_distillation": Run({"max_steps": 6}, partial(self_distilling, has_teacher=True)),
    "further pre-training": Run({"max_steps": 6}, partial(self_distilling, has_teacher=False)),
    "factored moments": Run({"max_steps": 6, "optim": "adafactor"}, partial(self_distilling, has_teacher=False)),
}
