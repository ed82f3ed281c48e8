"""An embedding model of a layout that is trained here, and its students' questions in its index.

    python -m benchmarks.studies.layout_embeddings --start runs/layouts/nomic_bert/teacher --vectors_of MODEL \
        --data DATA --output_dir runs/layouts/nomic_bert/embedding

MODEL gives texts their vectors. The start learns these, by `homodistil distill --teacher_vectors`, and is the teacher
of a quarter and an eighth. DATA as in `sparse.py`, whose texts these are.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.studies.sparse import distil, training_texts
from homodistil_hf.embedding.evaluate import evaluate_embedding
from homodistil_hf.embedding.model import load_embedding_model

NUM_TEXTS = 40_000
LONGEST = 400
"""Characters of a text at most: vectors are of whole texts."""
SHARES = {"quarter": 0.25, "eighth": 0.125}
RECORD = Path("docs/results/studies/layout_embeddings.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="masked-LM model of the layout")
    parser.add_argument("--vectors_of", required=True, help="embedding model that gives texts their vectors")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--teacher_steps", type=int, default=1500)
    parser.add_argument("--max_steps", type=int, default=1000)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    vectors, texts = options.output_dir / "vectors.parquet", options.output_dir / "texts.parquet"
    if not vectors.is_file():
        rows = [text for text in training_texts(options.data)["text"] if len(text) <= LONGEST][:NUM_TEXTS]
        found = load_embedding_model(options.vectors_of).encode(rows)
        Dataset.from_dict({"text": rows}).to_parquet(texts)
        Dataset.from_dict({"text": rows, "vector": found.numpy()}).to_parquet(vectors)
    teacher = options.output_dir / "teacher"
    learning = {"teacher_vectors": vectors, "start": options.start, "max_steps": options.teacher_steps}
    distil(teacher, **learning)
    models = {"teacher": scores(teacher, options)}
    for name, share in SHARES.items():
        folder = options.output_dir / name
        learning = {"teacher": teacher / "student", "train_data": texts, "max_steps": options.max_steps}
        distil(folder, **learning, student=f"macs={share}")
        models[name] = scores(folder, options)
        print(name, json.dumps(models[name]), flush=True)
    steps = {"teacher_steps": options.teacher_steps, "max_steps": options.max_steps}
    RECORD.write_text(json.dumps({"settings": steps, "models": models}, indent=1) + "\n", encoding="utf-8")


def scores(folder: Path, options: Any) -> dict[str, Any]:
    """Costs and scores of a run's student on STS-B and QNLI, beside its teacher's."""
    others: dict[str, Any] = {"teacher": options.vectors_of} if folder.name == "teacher" else {}
    settings = {"data_dir": str(options.data / "glue")}
    found = evaluate_embedding(folder, **others, settings=settings)
    return {name: found[name] for name in ("models", "scores")}


if __name__ == "__main__":
    main()
