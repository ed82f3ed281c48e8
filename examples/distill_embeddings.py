r"""Narrow an embedding model with unlabelled text; its vectors stay in the teacher's space.

    python examples/distill_embeddings.py --teacher my-embedding-model --text 'my/*.txt' --output_dir out

Loads with `SentenceTransformer("out/student")` (pip install ".[embeddings]" in the checkout).
"""

import argparse
from pathlib import Path

from torch.nn.functional import normalize

from homodistil_hf import (
    EmbeddingDistilArguments,
    EmbeddingDistilTrainer,
    by_length,
    load_embedding_model,
    load_text,
    tokenize_texts,
)

QUERY, TEXTS = "Where is the cat?", ["The cat sat on the mat.", "Shares fell on Tuesday."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder of sentence-transformers, or its name on the Hub")
    parser.add_argument("--text", nargs="+", required=True, help="files, folders, globs or Hub data sets")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--student", default="macs=0.5", help="preset, budget or plan")
    parser.add_argument("--max_steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=64)
    options = parser.parse_args()

    teacher = load_embedding_model(options.teacher)
    length = min(128, teacher.settings.max_seq_length)
    rows = tokenize_texts(
        load_text(options.text), teacher.tokenizer, max_length=length, prepare=teacher.settings.prepared
    )
    if len(rows) <= options.batch_size:
        parser.error(
            f"--text has {len(rows)} texts, fewer than --batch_size {options.batch_size} and one to measure on"
        )
    split = rows.train_test_split(min(1000, max(1, len(rows) // 10), len(rows) - options.batch_size), seed=0)
    trainer = EmbeddingDistilTrainer(
        teacher,
        EmbeddingDistilArguments(
            output_dir=options.output_dir,
            student=options.student,
            max_steps=options.max_steps,
            per_device_train_batch_size=options.batch_size,
            train_sampling_strategy="sequential",  # by_length has shuffled
            report_to="none",
        ),
        train_dataset=by_length(split["train"], batch_size=options.batch_size),
        eval_dataset=split["test"],
    )
    trainer.train()
    print(f"cosine to the teacher {trainer.evaluate()['eval_cosine']:.3f}")

    student = load_embedding_model(trainer.export(Path(options.output_dir) / "student"))
    # the student's query in the teacher's index
    similarities = normalize(student.encode([QUERY])) @ normalize(teacher.encode(TEXTS)).T
    print(dict(zip(TEXTS, similarities[0].tolist(), strict=True)))


if __name__ == "__main__":
    main()
