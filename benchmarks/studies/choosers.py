"""Which questions a cascade sends to the teacher: those of the least margin, or those that a fitted chooser picks.

    python -m benchmarks.studies.choosers STUDENT TEACHER --data DATA

Questions are those of QNLI with an answer, in the teacher's index of all its sentences. Choosers are fitted to one
half of them: is the first hit the teacher's? On the other half each sends as few as leave WANTED of the first hits the
teacher's, which it is told here: what is left is how well it orders them. Halves are drawn anew NUM_DRAWS times.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.spread import Spread
from benchmarks.studies.study import Study
from homodistil_hf.embedding.evaluate import load_tasks, retrieval_tasks
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.tables import markdown_table

RECORD = Path("docs/results/studies/choosers.json")
WANTED, NUM_DRAWS, NUM_HITS = 0.99, 20, 10
MARGIN, LEAST = "margin", "a chooser that knows"
FEATURES = {
    "logistic: margin, first score, length": [0, 1, 2],
    "logistic: these, entropy and likeness of the first hits, margins to later ones": list(range(8)),
    "boosted trees: the same": list(range(8)),
}
"""Chooser → columns of `features`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    student, teacher = map(load_embedding_model, (options.student, options.teacher))
    (task,) = retrieval_tasks(load_tasks(options.data / "glue", max_queries=10_000))
    index = teacher.encode(task.documents)
    wanted, scores = (model.encode(task.queries) @ index.T for model in (teacher, student))
    is_same = (wanted.argmax(1) == scores.argmax(1)).numpy()
    shares = measured(features(scores, index, task.queries), is_same)
    found = {"questions": len(is_same), "same_first_hits": float(is_same.mean()), "wanted": WANTED, "shares": shares}
    write_text(options.record, json.dumps(found | {"machine": machine_facts()}, indent=1) + "\n")


def features(scores_QD: torch.Tensor, index_DC: torch.Tensor, questions: Sequence[str]) -> np.ndarray:
    """What a chooser may know of each question, `(Q, 8)`; the margin comes first."""
    best, places = scores_QD.topk(NUM_HITS)
    hits = index_DC[places]
    apart = (hits[:, :1] - hits[:, 1:]).norm(dim=-1).clamp(min=1e-4)
    shares = (best / 0.02).softmax(1)
    columns = [
        *(best[:, 0] - best[:, 1], best[:, 0], torch.tensor([float(len(one.split())) for one in questions])),
        *(-(shares * shares.log()).sum(1), (hits[:, 0] * hits[:, 1]).sum(1), apart[:, 0]),
        # a student's errors of two scores differ the more, the less alike the two texts are
        *(((best[:, :1] - best[:, 1:]) / apart).min(1).values, best[:, 0] - best[:, 4]),
    ]
    return torch.stack(columns, 1).double().numpy()


def measured(known_QF: np.ndarray, is_same: np.ndarray) -> dict[str, list[float]]:
    """Chooser → share of questions that it sends to the teacher, of each draw."""
    generator, found = np.random.default_rng(0), dict[str, list[float]]()
    for _ in range(NUM_DRAWS):
        fitted, judged = np.array_split(generator.permutation(len(is_same)), 2)
        found.setdefault(MARGIN, []).append(share_sent(known_QF[judged, 0], is_same[judged]))
        for name, columns in FEATURES.items():
            model = LogisticRegression(max_iter=2000) if name.startswith("logistic") else None
            chooser = make_pipeline(StandardScaler(), model or GradientBoostingClassifier(n_estimators=60))
            chooser.fit(known_QF[np.ix_(fitted, columns)], is_same[fitted])
            trust = chooser.decision_function(known_QF[np.ix_(judged, columns)])
            found.setdefault(name, []).append(share_sent(trust, is_same[judged]))
        found.setdefault(LEAST, []).append(max(0.0, float(1 - is_same[judged].mean() - (1 - WANTED))))
    return found


def share_sent(trust: np.ndarray, is_same: np.ndarray) -> float:
    """The least share of questions, those of the least trust first, that leaves `WANTED` of the hits the teacher's."""
    wrong = 1 - is_same[np.argsort(trust, kind="stable")].astype(int)
    left = np.append(wrong[::-1].cumsum()[::-1], 0)  # wrong ones among those that stay
    return float(np.argmax(left <= (1 - WANTED) * len(wrong)) / len(wrong))


def table(found: Mapping[str, Any]) -> list[str]:
    """A row a chooser."""
    cells = [[name, f"{Spread.of(100 * share for share in shares):.1f}"] for name, shares in found["shares"].items()]
    return markdown_table(["questions are sent by", "sent, %"], cells)


STUDY = Study(RECORD, Path("docs/embeddings.md"), lambda found: {"choosers": table(found)})


if __name__ == "__main__":
    main()
