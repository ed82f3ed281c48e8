"""The model that a folder or a Hub name holds, loaded for an evaluation, its results on disk, and a table of several.

The folder of a finished run stands for its export, a `checkpoint-N` for its student at the widths of that step.
Results are one JSON a measurement, and a summary that is always made anew from those files. A record carries a digest
of everything that its numbers depend on: weights, tokenizer, data, settings. If the digest is the same, a measurement
is read instead of repeated; else the record is replaced. The table has notes on every difference that makes the
comparison less than fair.
"""

import glob
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from ..export.card import render_card
from ..export.export_folder import StudentIn, checkpoint_student, facts_held, members_hint, student_in
from ..export.facts import (
    BENCHMARKS,
    CARD_FILE,
    FACTS_FILE,
    GUARANTEE,
    PACKED,
    read_export_facts,
    read_facts,
    run_facts,
)
from ..files.checkpoints import check_manifest
from ..files.folders import check_writable, is_path, remove_folder, write_text
from ..files.inside import refuse_link_out
from ..files.provenance import version_facts
from ..files.run_names import MODEL_FOLDERS, STUDENT_FOLDER
from ..files.strict_json import read_json_object, write_json
from ..models.cost import COSTS, model_facts
from ..models.equality import weights_digest
from ..models.loading import MODULES_FILE, load_encoder, load_encoder_config
from ..models.tokenizers import COPY, as_heads_read, check_padding, load_tokenizer, stored_tokenizer
from ..tables import cell, markdown_table, spread_facts, table_cells
from ..training.run_folder import folder_claimed

EVALUATIONS_FOLDER = "evaluations"
SUMMARY_FILE = "summary.json"
DISCREPANCY = "discrepancy"
DISCREPANCY_METRICS = ("kl", "agreement", "mlm_loss", "mlm_accuracy", "pseudo_perplexity")
Record: TypeAlias = dict[str, Any]
_PER_SEED = ("seed", "metrics", "score", "time_s", "finished", "asked", "versions", "train_loss", "model", "sha256")
BOUND_TO = "guarantee_of"
"""Key of the digests of the model and the teacher that guarantees are of."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with its tokenizer and its folder of results.

    Args:
        name: its name in tables.
        source: folder or Hub name.
        model: of a stock class or a student's, in float32, in evaluation mode, on the CPU.
        tokenizer: of the model.
        results: folder of its results.
        export: folder with the `facts.json` and the card of this model; None where it is no export.
        facts: of the export, as it was loaded.
    """

    name: str
    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    results: Path
    export: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_padding(self.tokenizer)
        as_heads_read(self.tokenizer, self.model.config)

    @cached_property
    def sha256(self) -> str:
        """Digest of weights, configuration and tokenizer."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        read = dict(sorted(self.tokenizer.get_vocab().items())) if backend is None else json.loads(backend.to_str())
        for changing in ("truncation", "padding"):  # of the last call
            read.pop(changing, None)
        digested = weights_digest(self.model) + json.dumps(read)
        return hashlib.sha256(digested.encode("utf-8")).hexdigest()

    def measured(
        self, name: str, depends_on: Mapping[str, Any], measure: Callable[[Path], Mapping[str, Any]]
    ) -> tuple[Record, bool]:
        """Read a result, or measure and write it.

        Args:
            name: of the measurement, e.g. `rte.seed-0`; the file's name without `.json`.
            depends_on: settings and digests of the data, plain values. The model's own digest is added.
            measure: returns the result, plain values. It gets a folder for what it needs to go on after a stop. The
                folder is removed once there is a result.

        Returns:
            `tuple[dict, bool]`: the record; whether it was read.
        """
        digested = json.dumps({**depends_on, "model": self.sha256}, sort_keys=True)
        sha256 = hashlib.sha256(digested.encode("utf-8")).hexdigest()
        path = self.results / f"{name}.json"
        if (earlier := _read_record(path)) and earlier.get("sha256") == sha256:
            earlier["asked"] = _now()  # a summary is of what was asked for last
            write_json(path, earlier)
            return earlier, True
        # the digest in its name: only the same measurement goes on there
        going_on = self.results / f".{name}-{sha256[:16]}"
        for other in self.results.glob(f".{glob.escape(name)}-*"):
            if other != going_on:
                remove_folder(other)  # of other settings, data or weights
        record = {
            "model": {"name": self.name, "sha256": self.sha256},
            **measure(going_on),
            "sha256": sha256,
            "versions": version_facts(),
            "finished": _now(),
        }
        self.results.mkdir(parents=True, exist_ok=True)
        # the record first, or a kill in between would lose the work
        write_json(path, record)
        remove_folder(going_on)
        return record, False

    def summarize(self) -> dict[str, Any]:
        """Sum up all records of this model as it is now, and write `summary.json`.

        It holds `model` (name, digest, costs), `tasks` (name → mean, standard deviation, conditions), and
        `discrepancy` if it was measured.
        """
        tasks: dict[str, list[Record]] = {}
        counted = model_facts(self.model)
        costs = {key: counted[key] for key in ("architecture", "num_hidden_layers", *COSTS)}
        summary: dict[str, Any] = {"model": {"name": self.name, **costs, "sha256": self.sha256}}
        for path in sorted(self.results.glob("*.json")):
            record = _read_record(path)
            measured = record.get("model")
            # records of other weights stay, but don't count
            if not isinstance(measured, dict) or measured.get("sha256") != self.sha256:
                continue
            if "seed" in record:
                tasks.setdefault(record["data"], []).append(record)
            elif path.stem == DISCREPANCY:
                left_out = ("model", "sha256", "versions", "finished", "asked")
                summary[DISCREPANCY] = {key: value for key, value in record.items() if key not in left_out}
        summary["tasks"] = {name: _summary(records) for name, records in tasks.items()}
        self.results.mkdir(parents=True, exist_ok=True)
        write_json(self.results / SUMMARY_FILE, summary)
        return summary

    def publish(self, summary: Mapping[str, Any]) -> None:
        """Write a summary into the facts and the card of an export; other models stay as they are.

        Results of other tasks stay in the facts: they are of the same weights, as a new export has new facts. Files
        whose digests the facts list are not touched.
        """
        if self.export is None:
            return
        with facts_held(self.export, self.facts) as facts:
            earlier = dict(facts.get(BENCHMARKS, {}))
            # bounds beside another teacher, or of other weights, are none to add to
            if GUARANTEE in summary and earlier.get(BOUND_TO) != summary.get(BOUND_TO):
                earlier.pop(GUARANTEE, None)
            section = {**earlier, **summary}
            # tasks and guarantees are added one by one, all else is replaced
            section |= {name: earlier.get(name, {}) | summary.get(name, {}) for name in ("tasks", GUARANTEE)}
            section = {
                name: value for name, value in section.items() if name == "tasks" or (value and name != "model")
            }
            published = facts | run_facts({BENCHMARKS: section})
            if published != facts:
                write_json(self.export / FACTS_FILE, published)
                write_text(self.export / CARD_FILE, render_card(published))


def load_model(source: str | Path, output_dir: str | Path | None = None, *, needs_head: bool = True) -> EvaluatedModel:
    """Load a model to evaluate: an export, a finished run, a `checkpoint-N`, a stock model's folder or Hub name.

    Args:
        source: the model.
        output_dir: folder of its results; default: beside it.
        needs_head: False: it gets a fresh head, so an encoder may have none, alone or in sentence-transformers.

    Raises:
        ValueError: there is no such folder or no model in it, or it has no tokenizer.
        OSError: the Hub can't be reached, or a file can't be read.
    """
    found, source = model_in(source), str(source)
    evaluated = partial(EvaluatedModel, model_name(source), source, results=results_folder(source, output_dir))
    if found is None:
        model = load_encoder(source, argument="model", needs_head=needs_head).eval()
        return evaluated(model, load_tokenizer(source, argument="model", remedy=COPY))
    folder = found.folder
    tokenizer = stored_tokenizer(folder)
    if tokenizer is None:
        load_encoder_config(str(folder), argument="model", needs_head=needs_head)  # refuses what can't be loaded first
        raise ValueError(f"model={source!r} has no tokenizer; copy the teacher's tokenizer files into {folder}")
    if found.kind == "checkpoint":
        student, _ = checkpoint_student(check_manifest(folder), format="compact", allow_partial=True)
        return evaluated(student, tokenizer)
    export, facts = None, {}
    if found.kind == "export" and not (folder / MODULES_FILE).is_file():  # else its facts and its card are of vectors
        if read_facts(folder).get("format") == PACKED:
            raise ValueError(f"model={source!r} is a model of bits, measured when it was made; name the float model")
        export, facts = folder, read_export_facts(folder)  # a damaged file is found before hours of fine-tuning
    elif found.kind == "export" and needs_head:
        raise ValueError(f"model={source!r} is an embedding model without a head; expected task=embedding")
    model = load_encoder(str(folder), argument="model", needs_head=needs_head).eval()
    return evaluated(model, tokenizer, export=export, facts=facts)


def model_in(source: str | Path) -> StudentIn | None:
    """Describe the folder that a name means; None for a name on the Hub, ValueError for a path without a model."""
    folder = Path(os.path.expanduser(source))
    if not folder.is_dir():
        if is_path(str(source)):
            is_there = "is a file, no folder" if folder.exists() else "does not exist"
            raise ValueError(f"model={str(source)!r} {is_there}; expected {_EXPECTED}")
        return None
    found = student_in(folder)
    if found.kind == "nothing":
        raise ValueError(
            f"model={str(source)!r} holds no {CONFIG_NAME} and no {STUDENT_FOLDER}/; expected {_EXPECTED}"
            f"{members_hint(folder)}"
        )
    return found


def recorded_teacher(source: str | Path) -> str | None:
    """The teacher of the run that made a model, as it is recorded there."""
    found = model_in(source)
    return found.teacher if found else None


def results_folder(source: str | Path, output_dir: str | Path | None = None) -> Path:
    """The folder of a model's results: beside it, or below the working folder for a Hub name; it may not exist yet."""
    if output_dir is not None:
        return Path(output_dir)
    found = model_in(source)
    if found is None:
        return Path(EVALUATIONS_FOLDER, str(source).replace("/", "--"))
    folder = found.folder.resolve()
    refuse_link_out(folder.parent, EVALUATIONS_FOLDER)
    return folder.parent / EVALUATIONS_FOLDER / folder.name


@contextmanager
def results_claimed(source: str | Path, output_dir: str | Path | None = None) -> Iterator[Path]:
    """Hold the folder of a model's results while inside, and yield it; arguments as [`results_folder`].

    Raises:
        ValueError: the folder can't be written, or another process evaluates into it.
    """
    folder = results_folder(source, output_dir)
    given = f"output_dir={str(output_dir)!r}" if output_dir is not None else f"output_dir is not set, and {folder}"
    check_writable(folder, given)
    with folder_claimed(str(folder), is_main=PartialState().is_main_process):
        yield folder


def model_name(source: str | Path) -> str:
    """A model's name in tables: Hub name or last part of its folder, behind the run's for a student or checkpoint."""
    found = model_in(source)
    if found is None:
        return str(source)
    folder = found.folder.resolve()
    is_of_run = folder.name in MODEL_FOLDERS or found.kind == "checkpoint"
    return f"{folder.parent.name}/{folder.name}" if is_of_run else folder.name


_EXPECTED = "an export, a finished run, a checkpoint-N, the folder of a BERT model, or its name on the Hub"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read the summary of [`EvaluatedModel.summarize`]; None where the folder has none."""
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return None
    summary = read_json_object(path, f"{SUMMARY_FILE} in folder={str(folder)!r}")
    if not isinstance(summary.get("tasks"), dict) or not isinstance(summary.get("model"), dict):
        raise ValueError(f"{SUMMARY_FILE} in folder={str(folder)!r} is no summary of evaluations; evaluate again")
    return summary


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _summary(records: list[Record]) -> dict[str, Any]:
    newest = max(records, key=lambda record: str(record.get("asked", record["finished"])))
    # Seeds of one result share its settings; records of other settings are an earlier run's.
    same = [record for record in records if record["conditions"] == newest["conditions"]]
    same.sort(key=lambda record: record["seed"])
    conditions = {key: value for key, value in newest.items() if key not in _PER_SEED}
    return {
        "score": spread_facts(record["score"] for record in same),
        "metrics": {name: spread_facts(record["metrics"][name] for record in same) for name in newest["metrics"]},
        "seeds": [record["seed"] for record in same],
        "scores": [record["score"] for record in same],
        **conditions,
    }


def _read_record(path: Path) -> Record:
    if not path.is_file():
        return {}
    try:
        return read_json_object(path, path.name)
    except ValueError:  # cut off, or no record: measured again
        return {}


# The table of several models


def compare(models: Sequence[str | Path], *, teacher: str | Path | None = None) -> dict[str, Any]:
    """Put the results of several models side by side.

    Args:
        models: models as [`evaluate_glue`] takes them, or folders of results (`evaluations/NAME`).
        teacher: one more model; the others' scores are also given as shares of the teacher's.

    Returns:
        `dict`: `rows`, one a model: `name`, costs, discrepancy, `tasks` (name → `mean`, `std`, `num_seeds`), and
        `mean` over the `common_tasks`, the tasks that all rows have. `kept_fraction` is the mean as a share of the
        teacher's. `kept_above_constant` is this share after the score of one constant answer is taken off both means.
        Both are None where the teacher's mean isn't above that score.
        `notes`: results that are missing or were not measured alike.

    Raises:
        ValueError: no model is named, a model doesn't exist, or no model has results.
    """
    sources = list(dict.fromkeys(map(str, [*([teacher] if teacher else []), *models])))
    if not sources:
        raise ValueError("models=[] names none; expected folders or Hub names of evaluated models")
    summaries = {name: _measured(source) for name, source in zip(_names(sources), sources, strict=True)}
    tasks = list(dict.fromkeys(chain.from_iterable(summary["tasks"] for summary in summaries.values())))
    if not tasks and not any(DISCREPANCY in summary for summary in summaries.values()):
        raise ValueError(
            f"models={', '.join(sources)}: nothing has been evaluated; run homodistil evaluate MODEL --task … first"
        )
    common = [task for task in tasks if all(task in summary["tasks"] for summary in summaries.values())]
    rows = [_row(name, summary, common) for name, summary in summaries.items()]
    if teacher:
        constants = [summary["tasks"][task]["constant_score"] for summary in summaries.values() for task in common]
        floor = statistics.fmean(constants) if common else 0.0
        for row in rows:
            above = row["kept_above_constant"] = _share(row, rows[0], floor=floor)
            # a teacher that answers all rows alike has nothing to keep
            row["kept_fraction"] = None if above is None else _share(row, rows[0], floor=0.0)
    return {
        "teacher": rows[0]["name"] if teacher else None,
        "rows": rows,
        "tasks": tasks,
        "common_tasks": common,
        "notes": [*_lacking(summaries, tasks), *_different(summaries, tasks)],
    }


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Lay a comparison out as Markdown.

    Args:
        comparison: what [`compare`] returned.

    Returns:
        `str`: a table and its notes; scores times 100, mean ± standard deviation over seeds.
    """
    rows, tasks, common = comparison["rows"], comparison["tasks"], comparison["common_tasks"]
    (_, *headings), *lines = table_cells([{k: v for k, v in row.items() if v is not None} for row in rows])
    columns = {task: [_score(row["tasks"].get(task)) for row in rows] for task in tasks}
    if common:
        columns[f"mean of {len(common)}"] = [_score(row["mean"]) for row in rows]
    if common and comparison["teacher"]:
        columns["of teacher's"] = [cell(row["kept_fraction"], "{:.1%}") for row in rows]
        columns["above constant"] = [cell(row["kept_above_constant"], "{:.1%}") for row in rows]
    header = ["model", *headings, *columns]
    lines = [[*line, *others] for line, *others in zip(lines, *columns.values(), strict=True)]
    table = markdown_table(header, lines, rules=["---", *["---:"] * (len(header) - 1)])
    about = []
    if tasks:
        about.append(
            "Scores are times 100, mean ± standard deviation over seeds; of two metrics of a task their mean."
        )
    if common:
        about.append(f"The mean is over the tasks that all models have: {', '.join(common)}.")
    if common and comparison["teacher"]:
        about.append(
            "Above constant: the mean's share of the teacher's after what one answer for every row would score, the "
            "most frequent label or the mean of the training rows, is taken off both."
        )
    notes = [f"- {note}" for note in comparison["notes"]]
    return "\n\n".join("\n".join(part) for part in (table, about, notes) if part)


def _names(sources: list[str]) -> list[str]:
    names = [Path(source).name if _is_results(source) else model_name(source) for source in sources]
    return [name if names.count(name) == 1 else source for name, source in zip(names, sources, strict=True)]


def _is_results(source: str) -> bool:
    return Path(source, SUMMARY_FILE).is_file()


def _measured(source: str) -> dict[str, Any]:
    """The facts of an export, which are never of other weights; for other models the summary beside them."""
    is_results = _is_results(source)
    found = None if is_results else model_in(source)
    if found is None or found.kind != "export":
        folder = Path(source) if is_results else results_folder(source)
        return read_summary(folder) or {"model": {}, "tasks": {}}
    facts = read_export_facts(found.folder)
    return {"model": facts["student"], "tasks": {}, **facts.get(BENCHMARKS, {})}


def _row(name: str, summary: Mapping[str, Any], common: list[str]) -> dict[str, Any]:
    tasks = {task: {**found["score"], "num_seeds": len(found["seeds"])} for task, found in summary["tasks"].items()}
    discrepancy = summary.get(DISCREPANCY, {})
    return {
        "name": name,
        **{cost: summary["model"].get(cost) for cost in COSTS},
        **{metric: discrepancy.get(metric) for metric in DISCREPANCY_METRICS},
        "tasks": tasks,
        "mean": _mean([summary["tasks"][task] for task in common]),
    }


def _mean(tasks: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over tasks, with the spread of the seeds' means where all tasks have the same seeds."""
    if not tasks:
        return {"mean": None, "std": None}
    seeds = tasks[0]["seeds"]
    if all(task["seeds"] == seeds for task in tasks):
        of_seeds = zip(*(task["scores"] for task in tasks), strict=True)
        return {**spread_facts(statistics.fmean(scores) for scores in of_seeds), "num_seeds": len(seeds)}
    return {"mean": statistics.fmean(task["score"]["mean"] for task in tasks), "std": None}


def _share(row: Mapping[str, Any], teacher: Mapping[str, Any], *, floor: float) -> float | None:
    """Share of the teacher's mean above a floor; None without a common task, or where the teacher isn't above it."""
    score, best = row["mean"]["mean"], teacher["mean"]["mean"]
    return (score - floor) / (best - floor) if best is not None and best > floor else None


def _lacking(summaries: Mapping[str, Mapping[str, Any]], tasks: list[str]) -> Iterator[str]:
    """Notes on what was not measured, or on a part of the rows."""
    wants_discrepancy = any(DISCREPANCY in summary for summary in summaries.values())
    for name, summary in summaries.items():
        lacking = [task for task in tasks if task not in summary["tasks"]]
        lacking += [DISCREPANCY] if wants_discrepancy and DISCREPANCY not in summary else []
        if lacking:
            yield f"{name} has not been evaluated on {', '.join(lacking)}."
        elif summary.get(DISCREPANCY, {"kl": 0}).get("kl") is None:
            yield f"{name} was measured without a teacher: no KL, no agreement."
    for task in tasks:
        if task.endswith("_part"):
            yield f"{task}: a part of the task's rows, so no figure to hold against published ones."
        found = [summary["tasks"][task] for summary in summaries.values() if task in summary["tasks"]]
        capped = {(entry["num_train_rows"], entry["num_available_rows"]) for entry in found}
        for used, available in sorted(capped):
            if used < available:
                yield f"{task}: trained on {used:,} of {available:,} rows."


def _different(summaries: Mapping[str, Mapping[str, Any]], tasks: list[str]) -> Iterator[str]:
    """Notes on settings, data or numbers of seeds that differ between rows."""
    for task in tasks:
        found = {name: summary["tasks"][task] for name, summary in summaries.items() if task in summary["tasks"]}
        conditions = {
            name: {**entry["conditions"], "number of seeds": len(entry["seeds"]), "rows": entry["num_train_rows"]}
            for name, entry in found.items()
        }
        for of_one in conditions.values():
            if of_one.get("learning_rates"):  # chosen by the same search, each model its own
                of_one.pop("learning_rate", None)
        if differing := _differing(conditions):
            yield f"{task}: not measured alike ({differing})."
    measured = {name: summary[DISCREPANCY] for name, summary in summaries.items() if DISCREPANCY in summary}
    alike = {
        name: {**entry.get("settings", {}), "text": entry.get("blocks_sha256"), "teacher": entry.get("teacher_sha256")}
        for name, entry in measured.items()
        if entry.get("kl") is not None
    }
    if differing := _differing(alike):
        yield f"{DISCREPANCY}: not measured alike ({differing})."


def _differing(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    notes = []
    for name in dict.fromkeys(chain.from_iterable(conditions.values())):
        values = {row: str(values.get(name)) for row, values in conditions.items()}
        if len(set(values.values())) > 1:
            is_digest = name.endswith("sha256") or name in ("text", "teacher")
            shown = "" if is_digest else ": " + ", ".join(f"{row} {value}" for row, value in values.items())
            notes.append(name.removesuffix("_sha256") + shown)
    return "; ".join(notes)


def _score(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["mean"] is None:
        return "–"
    std = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{std}"
