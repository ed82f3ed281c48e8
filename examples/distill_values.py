r"""Narrow a regression: a number for a text or a pair of texts, such as their similarity.

    python examples/distill_values.py --teacher my-scorer --rows rows.parquet --output_dir out

Columns are found by their usual names (sentence1 and sentence2, score, …). Rows without labels work as well.
The same by the command:

    homodistil distill --teacher my-scorer --train_data rows.parquet --student macs=0.5 --output_dir out
"""

import argparse

from datasets import load_dataset
from transformers import AutoTokenizer, pipeline

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder or Hub name of the fine-tuned model")
    parser.add_argument("--rows", required=True, help="parquet file with sentence1, sentence2 and score")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--student", default="macs=0.5", help="preset, budget or plan")
    parser.add_argument("--max_steps", type=int, default=1000)
    options = parser.parse_args()

    rows = load_dataset("parquet", data_files=options.rows, split="train").train_test_split(0.1, seed=0)
    trainer = HomoDistilTrainer(
        model=options.teacher,
        args=HomoDistilTrainingArguments(
            output_dir=options.output_dir, student=options.student, max_steps=options.max_steps, report_to="none"
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        processing_class=AutoTokenizer.from_pretrained(options.teacher),
    )
    trainer.train()
    metrics = trainer.evaluate()
    print(f"squared distance to the teacher {2 * metrics['eval_kl']:.4f}")

    folder = str(trainer.export(f"{options.output_dir}/student"))
    score = pipeline("text-classification", folder, function_to_apply="none")
    print(score({"text": "A cat sat down.", "text_pair": "The cat is sitting."}))


if __name__ == "__main__":
    main()
