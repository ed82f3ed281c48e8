"""Students of embedding models people use: what they keep of retrieval and of STS-B, and what they learn best from.

    python -m benchmarks.studies.retrieval --models DIR --data DATA --runs half quarter … --output_dir runs/retrieval

DIR has folders of sentence-transformers by their names, DATA has `corpora/{wikipedia,books}`, `glue/` and
`squad_v2_part/`. Each run is trained by `homodistil distill` and measured by `homodistil evaluate`, unless that is
done; a row a run goes to the record.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.studies.retrieval_texts import PARAGRAPHS, QUESTIONS, SENTENCES, WEIGHTS, link_tasks, write_texts
from benchmarks.studies.study import Study
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, write_json
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/studies/retrieval.jsonl"), Path("docs/embeddings.md")
MINILM, MPNET, E5 = "all-MiniLM-L6-v2", "all-mpnet-base-v2", "multilingual-e5-small-q4"
Settings = dict[str, list[Any]]
TASKS = {"stsb": ("spearman", "student"), "qnli_part": ("ndcg_at_10", "asymmetric")}
TASKS |= {"squad_part": ("ndcg_at_10", "asymmetric")}
"""Task → its metric, and the side that counts: in retrieval the student's questions in the teacher's index."""


class Run(NamedTuple):
    """A run: its teacher, kinds of training text and settings."""

    teacher: str
    kinds: tuple[str, ...]
    settings: Settings


def _run(teacher: str, macs: float, *kinds: str, steps: int = 1000, length: int = 64, **further: list[Any]) -> Run:
    own: Settings = {"student": [f"macs={macs}"], "max_steps": [steps], "max_seq_length": [length]}
    return Run(teacher, kinds, own | further)


_QUERIES = (SENTENCES, QUESTIONS)
_E5: Settings = {"vocabulary": ["coverage=0.999"], "train_prompts": ["", "query"]}
RUNS = {
    "half": _run(MINILM, 0.5, *_QUERIES),
    "half, 2,000 steps": _run(MINILM, 0.5, *_QUERIES, steps=2000),
    "quarter": _run(MINILM, 0.25, *_QUERIES),
    "quarter, 2,000 steps": _run(MINILM, 0.25, *_QUERIES, steps=2000),
    "mpnet quarter": _run(MPNET, 0.25, *_QUERIES),
    "mpnet quarter, 2,000 steps": _run(MPNET, 0.25, *_QUERIES, steps=2000),
    "mpnet eighth": _run(MPNET, 0.125, *_QUERIES),
    "e5 trimmed": _run(E5, 1.0, *_QUERIES, steps=0, **_E5),
    "e5 quarter": _run(E5, 0.25, *_QUERIES, **_E5),
    "e5 quarter, 2,000 steps": _run(E5, 0.25, *_QUERIES, steps=2000, **_E5),
}
TEXTS = {
    "sentences": _run(MINILM, 0.25, SENTENCES, steps=300),
    "sentences and paragraphs": _run(MINILM, 0.25, SENTENCES, PARAGRAPHS, steps=300, length=128),
    "sentences and questions": _run(MINILM, 0.25, *_QUERIES, steps=300),
}
RATES = {
    f"mpnet rate {rate}": _run(MPNET, 0.25, *_QUERIES, steps=100, learning_rate=[rate]) for rate in (3e-4, 5e-4, 1e-3)
}
SHAPES = {
    f"mpnet {shape}": _run(MPNET, 0.25, *_QUERIES, steps=100, student=[shape])
    for shape in ("384-12x32-1480", "480-12x40-808")
}
"""Other shapes of as many MACs: the planned one, 432-12x36-1120, is that of the rates."""
SHORT = RATES | SHAPES
ALL = RUNS | TEXTS | SHORT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/retrieval"))
    options = parser.parse_args()
    write_texts(options.data, options.output_dir)
    link_tasks(options.data, options.output_dir / "tasks", TASKS)
    link_tasks(options.data, options.output_dir / "sentences", ["stsb"])
    for name, seed in itertools.product(options.runs, options.seeds):
        row = measured(options, name, seed)
        known = STUDY.read() if RECORD.is_file() else []
        rows = [other for other in known if (other["run"], other["seed"]) != (name, seed)]
        lines = sorted([*rows, row], key=lambda one: (list(ALL).index(one["run"]), one["seed"]))
        RECORD.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")


def measured(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train and measure one run, unless that is done; its row."""
    teacher, kinds, settings = ALL[name]
    model = [options.models / teacher]
    folder = options.output_dir / f"{name} {seed}".replace(",", "").replace(" ", "-")
    evaluation = folder / "evaluation"
    texts = [options.output_dir / f"train-{kind}.txt" for kind in kinds]
    if settings["max_steps"] == [0] and not (folder / "results.json").is_file():  # a smaller vocabulary alone
        student: Settings = {"output": [folder / "student"], "vocabulary": settings["vocabulary"], "text": texts}
        command("trim", student, str(model[0]))
        write_json(folder / "results.json", {"evaluation": {}, "plan": None, "time_s": 0})
    if not (folder / "results.json").is_file():
        given: Settings = {"method": ["embedding"], "teacher": model, "seed": [seed]}
        given |= {"per_device_train_batch_size": [64]}
        given |= {"train_data": texts, "output_dir": [folder]}
        given |= {"eval_data": [options.output_dir / f"validation-{SENTENCES}.txt"], "bf16": [True]}
        given |= {"train_weights": [WEIGHTS[kind] for kind in kinds]} if len(kinds) > 1 else {}
        command("distill", given | settings)
    if not (evaluation / "embedding.json").is_file():
        tasks = "sentences" if name in SHORT else "tasks"  # encoding all documents takes longer than such a run
        given = {"task": ["embedding"], "teacher": model, "data_dir": [options.output_dir / tasks]}
        command("evaluate", given | {"output_dir": [evaluation]}, str(folder / "student"))
    found = read_json_object(evaluation / "embedding.json", "scores")
    results = read_json_object(folder / "results.json", "results")
    return {
        "run": name,
        "seed": seed,
        "scores": {
            task: found["scores"][task][metric] for task, (metric, _) in TASKS.items() if task in found["scores"]
        },
        "first_hits": {task: bound["agreement"] for task, bound in found["guarantee"].items()},
        "models": found["models"],
        **{key: results[key] for key in ("evaluation", "plan", "time_s")},
        "machine": machine_facts(),
    }


def command(name: str, settings: Settings, *places: str) -> None:
    """Run `homodistil NAME` with settings."""
    words = [word for key, values in settings.items() for word in (f"--{key}", *map(str, values))]
    subprocess.run([sys.executable, "-m", "homodistil_hf", name, *places, *words], check=True)


def tables(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Mark → table: what students keep, and what they learn best from."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    kept = ["STS-B", "QNLI", "SQuAD", "first hits"]
    students = [
        [*_told(name), f"{_macs(runs[0]):.2f}", *_kept(runs), _minutes(runs)]
        for name, runs in found.items()
        if name in RUNS
    ]
    tried = [[name, *_kept(runs), _alike(runs), _minutes(runs)] for name, runs in found.items() if name not in RUNS]
    return {
        "retrieval": markdown_table(["teacher", "steps", "MACs", *kept, "minutes"], students),
        "tried": markdown_table(["", *kept, "neighbours", "minutes"], tried),
    }


def _told(name: str) -> list[str]:
    run = ALL[name]
    return [run.teacher, f"{run.settings['max_steps'][0]:,}"]


def _kept(runs: list[dict[str, Any]]) -> list[str]:
    """Share of the teacher's score of each task, and of first hits on QNLI that are the teacher's, %."""
    shares: list[list[float]] = []
    for task, (_, side) in TASKS.items():
        scores = [run["scores"][task] for run in runs if task in run["scores"]]
        shares.append([100 * score[side] / score["teacher"] for score in scores])
    shares.append([100 * run["first_hits"]["qnli_part"] for run in runs if run["first_hits"]])
    return [f"{Spread.of(values):.1f}" if values else "–" for values in shares]


def _alike(runs: list[dict[str, Any]]) -> str:
    """Nearest texts in the teacher's index that are the teacher's, on held-out sentences, %."""
    return f"{Spread.of([100 * run['evaluation']['neighbours_in_index'] for run in runs]):.1f}"


def _macs(run: dict[str, Any]) -> float:
    models = run["models"]
    return models["student"]["encoder_macs"] / models["teacher"]["encoder_macs"]


def _minutes(runs: list[dict[str, Any]]) -> str:
    return f"{min(run['time_s'] for run in runs) / 60:.0f}"


def space_table(found: dict[str, Any]) -> dict[str, list[str]]:
    """nDCG@10 × 100 of what `homodistil evaluate --others` has paired, of QNLI and SQuAD: teacher and a family."""
    pairings, models = found["tasks"].values(), found["models"]
    cells = [
        [asking, f"{costs['size_bytes'] / 1e6:.1f}", f"{costs['ms']:.1f}"]
        + ["/".join(f"{100 * of[asking][asked]['ndcg_at_10']:.1f}" for of in pairings) for asked in models]
        for asking, costs in models.items()
    ]
    headings = ["queries by", "MB", "ms a query", *(f"index by {name}" for name in models)]
    return {"space": markdown_table(headings, cells)}


STUDY = Study(RECORD, PAGE, tables)
SPACE = Study(Path("docs/results/studies/retrieval_space.json"), PAGE, space_table)

if __name__ == "__main__":
    main()
