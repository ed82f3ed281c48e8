"""GLUE's metrics of a model that has learned nothing: the most frequent label for every row.

    python -m benchmarks.results.constant_predictions

The floor below the scores of students, written to docs/results/constant_predictions.json.
"""

import argparse
import json
from pathlib import Path

from benchmarks.results.fine_tunings import TASKS
from homodistil_hf.evaluation.metrics import constant_score
from homodistil_hf.evaluation.task_data import load_glue
from homodistil_hf.files.folders import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--data_dir", default="../shared/data/glue", help="folder with cola/, …")
    parser.add_argument("--results", type=Path, default=Path("docs/results/constant_predictions.json"))
    given = parser.parse_args()
    scores = {task: round(constant_score(load_glue(task, given.data_dir)), 4) for task in given.tasks}
    write_text(given.results, json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
