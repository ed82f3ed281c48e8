"""What one fine-tuning says: students of a sweep and their teacher, fine-tuned with several seeds.

    homodistil sweep examples/sweeps/methods_quarter.json
    python benchmarks/fine_tunings.py runs/sweeps/methods_quarter --arms homodistil one_shot

Every fine-tuning is `homodistil_hf.evaluation`'s and has a file of its own beside the student, so a command that was
stopped goes on, and the sweep's own fine-tunings, which have seed 0, are not repeated. After each model all scores
are written to --results, which `benchmarks/write_results.py` reads.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homodistil_hf.durable import write_text
from homodistil_hf.evaluation import evaluate_glue
from homodistil_hf.latency.machine import machine_facts
from homodistil_hf.sweep.cells import TEACHER
from homodistil_hf.sweep.records import read_records, trained
from homodistil_hf.sweep.statistics import seed_of


@dataclass(frozen=True)
class Model:
    """A model to be fine-tuned.

    Args:
        arm: of the sweep; `"teacher"` for the teacher.
        seed: of the student's run; None for the teacher.
        folder: of its weights.
        evaluations: folder that its fine-tunings are written to.
    """

    arm: str
    seed: int | None
    folder: Path
    evaluations: Path


def models_of(sweep_folder: Path, arms: Sequence[str]) -> list[Model]:
    """The teacher and all students of some arms.

    Args:
        sweep_folder: output of `homodistil sweep`, with its students.
        arms: of the sweep.

    Returns:
        `list[Model]`: the teacher first.

    Raises:
        ValueError: an arm or a student is not there.
    """
    records = [record for record in trained(read_records(sweep_folder / "results")) if record["arm"] in arms]
    folders = {record["cell"]: sweep_folder / record["cell"] for record in records}
    absent = [arm for arm in arms if arm not in {record["arm"] for record in records}]
    absent += [cell for cell, folder in folders.items() if not (folder / "student").is_dir()]
    if absent:
        raise ValueError(
            f"arms={list(arms)}: {sweep_folder} has no student of {', '.join(absent)}; run the sweep first"
        )
    teacher = Model(TEACHER, None, Path(records[0]["settings"][TEACHER]), sweep_folder / TEACHER / "evaluations")
    students = [
        Model(
            record["arm"],
            seed_of(record),
            folders[record["cell"]] / "student",
            folders[record["cell"]] / "evaluations",
        )
        for record in sorted(records, key=lambda record: (arms.index(record["arm"]), seed_of(record)))
    ]
    return [teacher, *students]


def fine_tune(models: Sequence[Model], tasks: Sequence[str], settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Fine-tune models.

    Args:
        models: see [`models_of`].
        tasks: of GLUE.
        settings: of [`homodistil_hf.evaluation.GlueSettings`].

    Yields:
        `dict`: arm, seed of the run, and `scores`: task → one for each seed of the fine-tunings.
    """
    for model in models:
        summary = evaluate_glue(model.folder, tasks, settings=settings, output_dir=model.evaluations, say=print)
        scores = {task: summary["tasks"][task]["scores"] for task in tasks}
        yield {"arm": model.arm, "seed": model.seed, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_folder", type=Path, help="output of a sweep")
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--tasks", nargs="+", default=["cola"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data_dir", default="../shared/data/glue", help="folder with cola/, …")
    parser.add_argument("--max_train_samples", type=int, default=10_000)
    parser.add_argument("--results", type=Path, default=Path("docs/results/fine_tunings.json"))
    given = parser.parse_args()
    settings = {name: getattr(given, name) for name in ("seeds", "data_dir", "max_train_samples")}
    done: list[dict[str, Any]] = []
    for found in fine_tune(models_of(given.sweep_folder, given.arms), given.tasks, settings):
        done.append(found)
        facts = {"sweep": given.sweep_folder.name, "arms": given.arms, "tasks": given.tasks, "seeds": given.seeds}
        facts |= {"max_train_samples": given.max_train_samples, "machine": machine_facts(), "models": done}
        write_text(given.results, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
