"""The model that a folder or a Hub name holds, loaded for an evaluation, and its results on disk.

The folder of a finished run stands for its export, a `checkpoint-N` for its student at the widths of that step.
Results are one JSON a measurement, and a summary that is always made anew from those files. A record carries a digest
of everything that its numbers depend on: weights, tokenizer, data, settings. If the digest is the same, a measurement
is read instead of repeated; else the record is replaced.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from ..export.card import render_card
from ..export.export_folder import facts_held
from ..export.facts import BENCHMARKS, CARD_FILE, FACTS_FILE, GUARANTEE, read_export_facts, run_facts
from ..export.student_in_folder import StudentIn, checkpoint_student, members_hint, student_in
from ..files.checkpoints import check_manifest
from ..files.folders import check_writable, is_path, remove_folder, write_text
from ..files.inside import refuse_link_out
from ..files.provenance import version_facts
from ..files.run_names import STUDENT_FOLDER
from ..files.strict_json import read_json_object, write_json
from ..models.cost import COSTS, model_facts
from ..models.equality import weights_digest
from ..models.loading import MODULES_FILE, load_encoder
from ..models.tokenizers import COPY, as_heads_read, check_padding, load_tokenizer, stored_tokenizer
from ..tables import Spread
from ..training.run_folder import folder_claimed

EVALUATIONS_FOLDER = "evaluations"
SUMMARY_FILE = "summary.json"
DISCREPANCY = "discrepancy"
DISCREPANCY_METRICS = ("kl", "agreement", "mlm_loss", "mlm_accuracy", "pseudo_perplexity")
Record: TypeAlias = dict[str, Any]
_PER_SEED = ("seed", "metrics", "score", "time_s", "finished", "versions", "train_loss", "model", "sha256")
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
        """Digest of weights, configuration and vocabulary."""
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256((weights_digest(self.model) + vocabulary).encode("utf-8")).hexdigest()

    def costs(self) -> dict[str, Any]:
        """`name`, `architecture`, `num_hidden_layers` and the four costs."""
        counted = model_facts(self.model)
        return {"name": self.name, **{key: counted[key] for key in ("architecture", "num_hidden_layers", *COSTS)}}

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
            "finished": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
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
        summary: dict[str, Any] = {"model": {**self.costs(), "sha256": self.sha256}}
        for path in sorted(self.results.glob("*.json")):
            record = _read_record(path)
            measured = record.get("model")
            # records of other weights stay, but don't count
            if not isinstance(measured, dict) or measured.get("sha256") != self.sha256:
                continue
            if "seed" in record:
                tasks.setdefault(record["data"], []).append(record)
            elif path.stem == DISCREPANCY:
                left_out = ("model", "sha256", "versions", "finished")
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
    model_of = model_in(source)
    results = results_folder(source, output_dir)
    name = model_name(source)
    if model_of is None:
        model = load_encoder(str(source), argument="model", needs_head=needs_head).eval()
        tokenizer = load_tokenizer(str(source), argument="model", remedy=COPY)
        return EvaluatedModel(name, str(source), model, tokenizer, results)
    folder = model_of.folder
    found = stored_tokenizer(folder)
    if found is None:
        raise ValueError(f"model={str(source)!r} has no tokenizer; copy the teacher's tokenizer files into {folder}")
    if model_of.kind == "checkpoint":
        student, _ = checkpoint_student(check_manifest(folder), format="compact", allow_partial=True)
        return EvaluatedModel(name, str(source), student, found, results)
    export, facts = folder if model_of.kind == "export" else None, {}
    if export is not None:
        if not (export / MODULES_FILE).is_file():
            facts = read_export_facts(export)  # a damaged file is found before hours of fine-tuning
        elif needs_head:
            raise ValueError(f"model={str(source)!r} is an embedding model without a head; expected task=embedding")
        else:
            export = None  # its facts and its card are of vectors
    argument = "folder" if needs_head else "model"
    model = load_encoder(str(folder), argument=argument, needs_head=needs_head).eval()
    return EvaluatedModel(name, str(source), model, found, results, export, facts)


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
    is_of_run = folder.name == STUDENT_FOLDER or found.kind == "checkpoint"
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


def _summary(records: list[Record]) -> dict[str, Any]:
    newest = max(records, key=lambda record: record["finished"])
    # Seeds of one result share its settings; records of other settings are an earlier run's.
    same = [record for record in records if record["conditions"] == newest["conditions"]]
    same.sort(key=lambda record: record["seed"])
    conditions = {key: value for key, value in newest.items() if key not in _PER_SEED}
    return {
        "score": Spread.of(record["score"] for record in same).facts(),
        "metrics": {name: Spread.of(record["metrics"][name] for record in same).facts() for name in newest["metrics"]},
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
