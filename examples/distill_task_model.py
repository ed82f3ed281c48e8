r"""Distil a fine-tuned sequence classifier on its own task: task loss + KL at the labels + hidden states.

    python examples/distill_task_model.py --teacher my-sst2-bert --train train.parquet --validation dev.parquet \
        --text_columns sentence --output_dir out

The same trainer takes token classification and question answering models, with the inputs and labels that their stock
classes take.
"""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
)

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, max_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="Hub name or folder of a BertForSequenceClassification")
    parser.add_argument("--train", required=True, help="parquet file with a label column")
    parser.add_argument("--validation", required=True, help="parquet file with a label column")
    parser.add_argument("--text_columns", nargs="+", default=["sentence"], help="one, or two for pairs")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--student", default="macs=0.5", help="preset, budget or plan")
    parser.add_argument("--max_steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    files = {"train": options.train, "validation": options.validation}
    length = min(128, max_tokens(AutoConfig.from_pretrained(options.teacher)))
    data = {name: tokenized(file, tokenizer, options.text_columns, length) for name, file in files.items()}
    trainer = HomoDistilTrainer(
        model=options.teacher,
        args=HomoDistilTrainingArguments(
            output_dir=options.output_dir,
            student=options.student,
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-4,
            logging_steps=max(1, options.max_steps // 100),
            report_to="none",
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
    )
    trainer.train()
    metrics = trainer.evaluate()
    print(f"accuracy {metrics['eval_accuracy']:.3f}, KL to the teacher {metrics['eval_kl']:.3f} nats")

    folder = trainer.export(Path(options.output_dir) / "student")
    student = BertForSequenceClassification.from_pretrained(folder)
    print(f"{folder}: {student.num_parameters():,} parameters, labels {student.config.id2label}")


def tokenized(file: str, tokenizer: PreTrainedTokenizerBase, text_columns: list[str], length: int) -> Dataset:
    rows = load_dataset("parquet", data_files=file, split="train")
    unused = [name for name in rows.column_names if name not in ("label", "labels")]

    def encode(batch: dict[str, list[str]]) -> dict[str, list]:
        return tokenizer(*(batch[name] for name in text_columns), truncation=True, max_length=length)

    return rows.map(encode, batched=True, remove_columns=unused)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


if __name__ == "__main__":
    main()
