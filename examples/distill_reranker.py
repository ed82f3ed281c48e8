r"""Narrow a reranker: one score for a query and a passage, learnt from pairs, with labels or without.

    python examples/distill_reranker.py --teacher my-reranker --rows pairs.parquet --output_dir out

Loads with `CrossEncoder("out/student")`. The same by the command:

    homodistil distill --teacher my-reranker --train_data pairs.parquet --student macs=0.5 --output_dir out
"""

import argparse

from datasets import load_dataset
from transformers import AutoTokenizer, pipeline

from homodistil_hf import RerankerDistilArguments, RerankerDistilTrainer

QUERY, PASSAGES = "Where is the cat?", ["The cat sat on the mat.", "Shares fell on Tuesday."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder or Hub name of a model with one score a pair")
    parser.add_argument("--rows", required=True, help="parquet file with query, passage, and label where it is known")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--student", default="macs=0.5", help="preset, budget or plan")
    parser.add_argument("--max_steps", type=int, default=1000)
    options = parser.parse_args()

    rows = load_dataset("parquet", data_files=options.rows, split="train").train_test_split(0.1, seed=0)
    trainer = RerankerDistilTrainer(
        model=options.teacher,
        args=RerankerDistilArguments(
            output_dir=options.output_dir, student=options.student, max_steps=options.max_steps, report_to="none"
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        processing_class=AutoTokenizer.from_pretrained(options.teacher),
    )
    trainer.train()
    print(f"correlation with the teacher {trainer.evaluate()['eval_correlation']:.3f}")

    folder = str(trainer.export(f"{options.output_dir}/student"))
    score = pipeline("text-classification", folder, function_to_apply="none")
    print({text: score({"text": QUERY, "text_pair": text})["score"] for text in PASSAGES})


if __name__ == "__main__":
    main()
