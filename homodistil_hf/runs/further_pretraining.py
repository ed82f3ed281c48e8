"""The kind of run that further pre-trains a model on a corpus, alone or before a distillation whose teacher it makes.

`methods/self_distillation/rounds.py` trains its rounds.
"""

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..files.caches import keep_datasets_here
from ..files.messages import short_repr
from ..files.provenance import version_facts
from ..files.run_names import FURTHER_FOLDER, RESULTS_FILE, SETTINGS_FILE
from ..files.strict_json import parse_json, write_json
from ..methods.self_distillation.rounds import RUN_FILE, self_distill
from ..tables import aligned_lines, cell
from ..training.run_folder import recorded_start
from .config import run_of
from .kinds import Kind
from .masked_words import check_inputs, read_rows
from .settings import Log, RunArguments, RunConfig

METHOD = "self_distillation"
_UNUSED = ("recipe", "further_pretraining", "vocabulary", "train_prompts", "train_weights", "start", "streaming")
_SHARED = (
    *(entry.name for entry in fields(RunArguments) if entry.init and entry.name not in ("method", *_UNUSED)),
    *("seed", "bf16", "fp16", "use_cpu", "report_to", "disable_tqdm", "logging_steps"),
    "streaming",  # refused here as in a run of its own
)
_DECIDED = (
    *("method", "teacher", "teacher_revision", "output_dir", "resume_from_checkpoint", "overwrite_output_dir"),
    "hub_token",
)

_OF_COLUMNS = {"text_column", "text_columns"}


def run(settings: RunConfig, log: Log) -> dict[str, Any]:
    """Run all rounds, and write `results.json`.

    Raises:
        ValueError: something about the settings, the data or the model can't work.
        OSError: a file or a Hub repository can't be read or written.
    """
    since = time.perf_counter()
    arguments, training = settings.run, settings.training
    # as `self_distill` does, but before any text is read
    recorded_start(training, RUN_FILE, {"model": arguments.teacher, "revision": arguments.teacher_revision})
    inputs = check_inputs(settings)
    keep_datasets_here()
    # one process tokenizes, the others find the rows in its cache
    with training.main_process_first(desc="reading the text"):
        rows = read_rows(settings, inputs, log)
    results = self_distill(
        arguments.teacher,
        training,
        revision=arguments.teacher_revision,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=inputs.tokenizer,
    )
    results |= {"versions": version_facts(), "settings": settings.given}
    results |= {"time_s": round(time.perf_counter() - since, 1)}
    if training.should_save:
        write_json(Path(str(training.output_dir), SETTINGS_FILE), settings.recorded)
        write_json(Path(str(training.output_dir), RESULTS_FILE), results)
    return results


def summary(results: Mapping[str, Any], output_dir: str) -> str:
    """Describe how the rounds ended."""
    names = {
        "loss_masked": "masked loss",
        "loss_state": "distance to teacher",
        "eval_loss": "held-out masked loss",
    }
    rows = [["round", *names.values()]]
    for number, metrics in enumerate(results["rounds"]):
        rows.append([str(number), *(cell(metrics.get(name), "{:.4f}") for name in names)])
    table = "\n".join(aligned_lines(rows))
    return f"\n{table}\n\n{results['time_s']:,.0f} s; fine-tune or distil {results['student']}"


KIND = Kind(run=run, summary=summary, unused=_UNUSED)


def further_pretraining_of(settings: RunConfig) -> RunConfig:
    """Make the settings of what `further_pretraining` of a distillation asks for, in a folder below `output_dir`.

    Raises:
        ValueError: settings of either that can't work.
    """
    training, given = settings.training, settings.run.further_pretraining
    values = parse_json(given, "further_pretraining") if isinstance(given, str) else given
    if not isinstance(values, dict):
        raise ValueError(
            f'further_pretraining={short_repr(given)} is no JSON object; expected such as {{"num_train_epochs": 10}}'
        )
    if settings.members:
        raise ValueError(
            f"further_pretraining goes before one student, student={settings.given['student']} "
            f"are several; run method={METHOD!r} first, and name its student/ as the teacher"
        )
    for name in _DECIDED:
        if name in values:
            raise ValueError(f"further_pretraining has {name}, which the run decides; drop it")
    # later ones override: the distillation's settings, those of `further_pretraining`, those that the run decides
    shared = {name: settings.given[name] for name in _SHARED if name in settings.given}
    if _OF_COLUMNS & values.keys():  # both name the columns of the text
        shared = {name: value for name, value in shared.items() if name not in _OF_COLUMNS}
    decided = {
        "method": METHOD,
        "output_dir": str(Path(str(training.output_dir), FURTHER_FOLDER)),
        "resume_from_checkpoint": training.resume_from_checkpoint,
        "overwrite_output_dir": training.overwrite_output_dir,
        "hub_token": training.hub_token,
    }
    return run_of(shared | values | decided, "further_pretraining")
