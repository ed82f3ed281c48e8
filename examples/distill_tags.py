r"""Narrow a tagger: a tag for each word, such as the names in a text.

    python examples/distill_tags.py --teacher my-tagger --rows rows.parquet --output_dir out

Rows have tokens and ner_tags, or text and spans [start, end, type]; a word's first token has its tag.
The same by the command:

    homodistil distill --teacher my-tagger --train_data rows.parquet --student macs=0.5 --output_dir out
"""

import argparse

from datasets import load_dataset
from transformers import AutoTokenizer, pipeline

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder or Hub name of the fine-tuned model")
    parser.add_argument("--rows", required=True, help="parquet file with tokens and ner_tags")
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
    # rows without tags have no F1
    right = f", F1 of spans {metrics['eval_span_f1']:.1%}" if "eval_span_f1" in metrics else ""
    print(f"KL to the teacher {metrics['eval_kl']:.3f} nats{right}")

    folder = str(trainer.export(f"{options.output_dir}/student"))
    tag = pipeline("token-classification", folder, aggregation_strategy="first")
    print(tag("Ada Lovelace lived in London."))


if __name__ == "__main__":
    main()
