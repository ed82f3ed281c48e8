"""A run of twelve steps, by public names only, so that it can be made by any commit.

`tests/package/earlier/` was made by commit 47ff2b4, which had another layout of modules:

    git worktree add old 47ff2b4 && cd old && PYTHONPATH=. python ../tests/support/earlier_run.py FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, PreTrainedModel, TrainerCallback

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments

VOCAB_SIZE, NUM_TOKENS, SAVED_STEP, NUM_STEPS = 32, 12, 6, 12
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
STUDENT = {"hidden_size": 8, "num_attention_heads": 1, "head_dim": 8, "intermediate_size": 12}
FORMATS = ("standard", "compact")


def earlier_teacher() -> PreTrainedModel:
    """Random weights everywhere."""
    teacher = BertForMaskedLM(BertConfig(**SHAPE, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return teacher.eval()


def earlier_trainer(folder: Path) -> HomoDistilTrainer:
    """Prunes from the first step to the seventh, compacts on the way, saves one checkpoint."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, VOCAB_SIZE))]
    args = HomoDistilTrainingArguments(
        output_dir=str(folder / "run"),
        student=STUDENT,
        max_steps=NUM_STEPS,
        per_device_train_batch_size=8,
        pruning_end_fraction=0.6,
        pruning_interval_steps=1,
        width_multiple=1,
        learning_rate=1e-3,
        attention_weight=0.1,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        teacher_dtype="float32",
    )
    return HomoDistilTrainer(
        model=earlier_teacher(),
        args=args,
        train_dataset=_blocks(128, seed=1),
        eval_dataset=_blocks(16, seed=2),
        processing_class=BertTokenizer(vocab={word: i for i, word in enumerate(words)}),
        callbacks=[_SaveOnce()],
    )


def losses_of(trainer: HomoDistilTrainer) -> dict[int, float]:
    """Step → logged loss."""
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


class _SaveOnce(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save |= state.global_step == SAVED_STEP


def _blocks(num_rows: int, *, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(5, VOCAB_SIZE, (num_rows, NUM_TOKENS), generator=generator)
    return Dataset.from_dict({"input_ids": tokens_BT.tolist(), "example_id": list(range(num_rows))})


def main(folder: Path) -> None:
    trainer = earlier_trainer(folder)
    trainer.train()
    for format in FORMATS:
        trainer.export(str(folder / format), format=format)
    (folder / "run" / f"checkpoint-{SAVED_STEP}").rename(folder / f"checkpoint-{SAVED_STEP}")
    (folder / "losses.json").write_text(json.dumps(losses_of(trainer)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
