r"""Narrow a reranker: one score for a query and a passage, learnt from unlabelled pairs.

    python examples/distill_reranker.py --teacher my-reranker --rows pairs.parquet --output_dir out

Loads with `CrossEncoder("out/student")`. The same by the command:

    homodistil distill --teacher my-reranker --train_data pairs.parquet --student macs=0.5 --output_dir out
"""

import argparse

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from homodistil_hf import RerankerDistilArguments, RerankerDistilTrainer, tokenize_pairs

QUERY, PASSAGES = "Where is the cat?", ["The cat sat on the mat.", "Shares fell on Tuesday."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder or Hub name of a model with one score a pair")
    parser.add_argument("--rows", required=True, help="parquet file with query and passage")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--student", default="macs=0.5", help="preset, budget or plan")
    parser.add_argument("--max_steps", type=int, default=1000)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    pairs = load_dataset("parquet", data_files=options.rows, split="train").select_columns(["query", "passage"])
    pairs = pairs.rename_columns({"query": "first", "passage": "second"}).train_test_split(0.1, seed=0)
    rows = {split: tokenize_pairs(pairs[split], tokenizer, max_length=128) for split in pairs}
    trainer = RerankerDistilTrainer(
        model=options.teacher,
        args=RerankerDistilArguments(
            output_dir=options.output_dir, student=options.student, max_steps=options.max_steps, report_to="none"
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        processing_class=tokenizer,
    )
    trainer.train()
    print(f"correlation with the teacher {trainer.evaluate()['eval_correlation']:.3f}")

    student = AutoModelForSequenceClassification.from_pretrained(trainer.export(f"{options.output_dir}/student"))
    inputs = tokenizer([QUERY] * len(PASSAGES), PASSAGES, padding=True, return_tensors="pt")
    with torch.no_grad():
        print(dict(zip(PASSAGES, student(**inputs).logits[:, 0].tolist(), strict=True)))


if __name__ == "__main__":
    main()
