r"""Narrow a classifier: one class of several for a text or a pair of texts.

    python examples/distill_classes.py --teacher my-classifier --rows rows.parquet --output_dir out

Columns are found by their usual names (text, sentence1 and sentence2, label, …). Rows without labels work as well.
The same by the command:

    homodistil distill --teacher my-classifier --train_data rows.parquet --student macs=0.5 --output_dir out
"""

import argparse

from datasets import load_dataset
from transformers import AutoTokenizer, pipeline

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder or Hub name of the fine-tuned model")
    parser.add_argument("--rows", required=True, help="parquet file with text and label")
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
    print(f"KL to the teacher {metrics['eval_kl']:.3f} nats, its class for {metrics['eval_agreement']:.1%}")

    folder = str(trainer.export(f"{options.output_dir}/student"))
    classify = pipeline("text-classification", folder)
    print(classify("A fine piece of work."))


if __name__ == "__main__":
    main()
