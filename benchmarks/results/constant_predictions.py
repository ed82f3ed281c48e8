"""What GLUE's metrics give to a model that has learned nothing: the most frequent label for every row.

    python -m benchmarks.results.constant_predictions

The floor below the scores of students, written to docs/results/constant_predictions.json.
"""

import argparse
import json
import statistics
from pathlib import Path

from benchmarks.results.tasks import TASK_NAMES
from homodistil_hf.evaluation import load_metric
from homodistil_hf.evaluation.glue.data import GLUE_TASKS, load_glue
from homodistil_hf.evaluation.metrics import task_score
from homodistil_hf.files.folders import write_text


def constant_score(task: str, data_dir: str) -> float:
    """Score the training rows' most frequent label, or their mean, on a task's dev rows; a correlation is 0 then."""
    data = load_glue(task, data_dir)
    (dev,) = data.dev.values()
    labels = data.train["label"][:]
    constant = statistics.fmean(labels) if GLUE_TASKS[task].num_labels == 1 else statistics.mode(labels)
    return task_score(task, load_metric(task).compute(predictions=[constant] * len(dev), references=dev["label"][:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASK_NAMES))
    parser.add_argument("--data_dir", default="../shared/data/glue", help="folder with cola/, …")
    parser.add_argument("--results", type=Path, default=Path("docs/results/constant_predictions.json"))
    given = parser.parse_args()
    scores = {task: round(constant_score(task, given.data_dir), 4) for task in given.tasks}
    write_text(given.results, json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
