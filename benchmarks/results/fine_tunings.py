"""What one fine-tuning says: students of a sweep and their teacher, fine-tuned with several seeds.

    homodistil sweep examples/sweeps/methods_quarter.json
    python -m benchmarks.results.fine_tunings runs/sweeps/methods_quarter --arms homodistil one_shot
    python -m benchmarks.results.fine_tunings runs/sweeps/methods_quarter --arms homodistil one_shot --run_seeds 0 \
        --tasks qnli qqp mnli --seeds 0 --results docs/results/fine_tunings_parts.json

Every fine-tuning is `homodistil_hf.evaluation`'s and has a file of its own beside the student, so a command that was
stopped goes on, and the sweep's own fine-tunings, which have seed 0, are not repeated. After each model all scores
are written to --results.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results.sweep_models import Model, models_of
from homodistil_hf.evaluation import evaluate_glue
from homodistil_hf.evaluation.glue.data import PART_SUFFIX
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts


def fine_tune(models: Sequence[Model], tasks: Sequence[str], settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Arm, seed of the run, and `scores`: task (`…_part` of a part of its rows) → one a seed of the fine-tunings."""
    for model in models:
        summary = evaluate_glue(model.folder, tasks, settings=settings, output_dir=model.evaluations, say=print)
        scores = {name: summary["tasks"][name]["scores"] for name in measured_names(summary, tasks)}
        yield {"arm": model.arm, "seed": model.seed, "scores": scores}


def measured_names(summary: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """What a summary calls tasks: a part of a task's rows has a name of its own."""
    return [name for task in tasks for name in (task, f"{task}{PART_SUFFIX}") if name in summary["tasks"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_folder", type=Path, help="output of a sweep")
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--run_seeds", nargs="+", type=int, help="only students of runs with these seeds")
    parser.add_argument("--tasks", nargs="+", default=["cola"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data_dir", default="../shared/data/glue", help="folder with cola/, …")
    parser.add_argument("--max_train_samples", type=int, default=10_000)
    parser.add_argument("--max_train_steps", type=int, help="of each fine-tuning; default: as many as its rows want")
    parser.add_argument("--results", type=Path, default=Path("docs/results/fine_tunings.json"))
    given = parser.parse_args()
    settings = {name: getattr(given, name) for name in ("seeds", "data_dir", "max_train_samples")}
    settings |= {} if given.max_train_steps is None else {"max_train_steps": given.max_train_steps}
    done: list[dict[str, Any]] = []
    models = models_of(given.sweep_folder, given.arms, given.run_seeds)
    for found in fine_tune(models, given.tasks, settings):
        done.append(found)
        facts = {"sweep": given.sweep_folder.name, "arms": given.arms, "run_seeds": given.run_seeds}
        facts |= {"tasks": given.tasks, "seeds": given.seeds}
        facts |= {"max_train_samples": given.max_train_samples, "machine": machine_facts(), "models": done}
        write_text(given.results, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
