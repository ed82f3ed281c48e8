"""Labels beside distillation: pairs of question and text add a contrastive term towards the teacher's vectors.

    python -m benchmarks.studies.contrastive MODEL --data DATA --output_dir runs/contrastive --weights 0 1 10

The student's questions choose among the teacher's texts of the batch, as they will in the teacher's index:
−log softmax_j(q_i·p_j / τ) at j = i. Pairs are those of `sparse.py`, of QNLI and SQuAD. A row is a run; rows that are
there are not run again.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from benchmarks.spread import Spread
from benchmarks.studies.sparse import pairs
from benchmarks.studies.study import Study, record_cells
from homodistil_hf.embedding.evaluate import load_tasks, retrieval_tasks
from homodistil_hf.embedding.metrics import retrieval_scores
from homodistil_hf.embedding.model import EmbeddingModel, load_embedding_model
from homodistil_hf.embedding.trainer import EmbeddingDistilArguments, EmbeddingDistillation, EmbeddingDistilTrainer
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/contrastive.jsonl")
TEMPERATURE = 0.05
NUM_TEXTS_A_STEP, LONGEST, MOST_QUERIES = 64, 64, 500
NUM_HELD_OUT = 300


class PairDistillation(EmbeddingDistillation):
    """Of a batch, question and text in turn, questions also choose among the teacher's texts."""

    weight: float
    """Factor of the term."""

    def teacher_vectors(self, outputs: Any, inputs: Any) -> torch.Tensor:
        """As the base's, noted."""
        self.of_teacher = super().teacher_vectors(outputs, inputs)
        return self.of_teacher

    def student_vectors(self, outputs: Any, inputs: Any) -> torch.Tensor:
        """As the base's, noted."""
        self.of_student = super().student_vectors(outputs, inputs)
        return self.of_student

    def terms(self, model: Any, inputs: Any, counts: torch.Tensor) -> tuple[Any, Any]:
        """As the base's; `vector` also has the pairs' term, so that its factor is `weight`."""
        terms, outputs = super().terms(model, inputs, counts)
        # neither while units are scored nor held out
        if self.weight and not self.weights[self.task.name] and model.training:
            scores = self.of_student[0::2].float() @ self.of_teacher[1::2].float().T / TEMPERATURE
            share = self.weight / self.weights["vector"]
            terms["vector"] = terms["vector"] + share * cross_entropy(scores, torch.arange(len(scores)))
        return terms, outputs


class PairTrainer(EmbeddingDistilTrainer):
    """Trains with the term."""

    distillation_class = PairDistillation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 1.0, 10.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--student", default="macs=0.25")
    parser.add_argument("--max_steps", type=int, default=200)
    options = parser.parse_args()
    shared = {"student": options.student, "max_steps": options.max_steps}
    cells = [shared | {"weight": weight, "seed": seed} for seed in options.seeds for weight in options.weights]
    record_cells(options.record, cells, lambda cell: run(cell, options))


def run(cell: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Train a student on pairs; its questions in the teacher's index, beside the teacher's own."""
    folder = options.output_dir / "-".join(map(str, cell.values()))
    rows, teacher = list(pairs(options.data).shuffle(seed=cell["seed"])), load_embedding_model(options.teacher)
    count = cell["max_steps"] * NUM_TEXTS_A_STEP
    args = EmbeddingDistilArguments(
        str(folder),
        **{name: cell[name] for name in ("student", "max_steps", "seed")},
        per_device_train_batch_size=NUM_TEXTS_A_STEP,
        train_sampling_strategy="sequential",  # pairs stay beside one another
        bf16=True,
        overwrite_output_dir=True,
        save_strategy="no",
        report_to="none",
    )
    training, held_out = (tokenized(part, teacher) for part in (rows[: count // 2], rows[-NUM_HELD_OUT:]))
    trainer = PairTrainer(options.teacher, args, train_dataset=training, eval_dataset=held_out)
    trainer.distillation.weight = cell["weight"]
    trainer.train()
    student, scores = load_embedding_model(trainer.export(folder / "student")), {}
    for data in (options.data / "glue", options.data):
        for task in retrieval_tasks(load_tasks(data, max_queries=MOST_QUERIES)):
            index = teacher.encode(task.documents)
            scores[task.name] = {
                side: retrieval_scores(model.encode(task.queries), index, task.answers or [])["ndcg_at_10"]
                for side, model in {"teacher": teacher, "student": student}.items()
            }
    return {"scores": scores, "neighbours_in_index": trainer.evaluate()["eval_neighbours_in_index"]}


def tokenized(rows: Sequence[Mapping[str, str]], model: EmbeddingModel) -> Dataset:
    """Question and text of each row, one behind the other."""
    texts = [row[side] for row in rows for side in ("anchor", "positive")]
    return Dataset.from_dict({"input_ids": [ids[:LONGEST] for ids in model.tokenizer(texts)["input_ids"]]})


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a factor of the term: what is kept of the teacher's nDCG@10 in its index, and of its neighbours, %."""
    groups: dict[float, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["weight"], []).append(row)
    cells = []
    for weight, runs in sorted(groups.items()):
        kept = [
            Spread.of(100 * run["scores"][task]["student"] / run["scores"][task]["teacher"] for run in runs)
            for task in ("qnli_part", "squad_part")
        ]
        kept.append(Spread.of(100 * run["neighbours_in_index"] for run in runs))
        cells.append([f"{weight:g}", *(f"{share:.1f}" for share in kept)])
    return markdown_table(["factor of the pairs' term", "QNLI kept", "SQuAD kept", "neighbours"], cells)


STUDY = Study(RECORD, Path("docs/embeddings.md"), lambda rows: {"contrastive": table(rows)})


if __name__ == "__main__":
    main()
