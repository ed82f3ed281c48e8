r"""Binarize a fine-tuned classifier beside itself, and write a folder with one bit a weight.

    python examples/binarize.py --model my-sst2-bert --train train.parquet --output_dir out --max_steps 1000

One stage, from the float model to weights of one and activations of `--activation_bits` bits. The same from a file of
settings, in several stages too, each the next one's teacher: `homodistil distill examples/configs/bit.json`.
"""

import argparse
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from homodistil_hf import (
    BinarizationArguments,
    BinarizationTrainer,
    export_packed,
    max_tokens,
    multiply_bits,
    to_binary,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub name or folder of a fine-tuned BERT")
    parser.add_argument("--train", required=True, help="parquet file with the column --text_column; no labels needed")
    parser.add_argument("--text_column", default="sentence")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--activation_bits", type=int, default=4)
    parser.add_argument("--max_steps", type=int, default=1000)
    options = parser.parse_args()

    folder = Path(options.output_dir, "model")
    if folder.exists():
        parser.error(f"--output_dir: {folder} is not empty; name another folder")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.model, dtype="float32")
    rows = Dataset.from_parquet(options.train).select_columns(options.text_column)
    length = min(128, max_tokens(teacher.config))
    rows = rows.map(
        lambda batch: tokenizer(batch[options.text_column], truncation=True, max_length=length),
        batched=True,
        remove_columns=options.text_column,
    )
    collate = DataCollatorWithPadding(tokenizer)
    student = to_binary(teacher, activation_bits=options.activation_bits)
    args = BinarizationArguments(
        output_dir=f"{options.output_dir}/training",
        max_steps=options.max_steps,
        learning_rate=1e-3,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
    )
    BinarizationTrainer(student, args, teacher_model=teacher, train_dataset=rows, data_collator=collate).train()
    export_packed(student, folder, tokenizer=tokenizer)
    print(f"{folder}: {(folder / 'model.safetensors').stat().st_size:,} bytes of weights")

    packed = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    batch = {name: rows[0][name] for name in ("input_ids", "attention_mask")}
    tensors = {name: torch.tensor([values]) for name, values in batch.items()}
    with torch.no_grad():
        packed(**tensors)
        start = time.perf_counter()
        packed(**tensors)
        print(f"{1000 * (time.perf_counter() - start):.1f} ms with float32 products")
        if multiply_bits(packed):
            packed(**tensors)
            start = time.perf_counter()
            packed(**tensors)
            print(f"{1000 * (time.perf_counter() - start):.1f} ms with products of bits")


if __name__ == "__main__":
    main()
