"""A task of one's own: fine-tunes any model on labelled rows in files.

Rates and steps are those of the evaluations, `task_runs.py`. Until the model is there, `training/` has the settings,
the tried rates and the checkpoints, by which a fine-tuning that was stopped goes on. Beside a teacher both commands
are the run of `runs/task.py`.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.read_line import MEASURED_ROWS, columns_words, read_line
from ..files.caches import keep_datasets_here
from ..files.checkpoints import model_written
from ..files.field_checks import setting
from ..files.folders import check_writable, remove_folder
from ..files.inside import refuse_link_out
from ..files.model_files import model_file
from ..files.run_names import MODEL_FOLDER, RESULTS_FILE, SETTINGS_FILE
from ..files.strict_json import fits, read_json_object, write_json
from ..models.architectures import HEADS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.loading import MODULES_FILE
from ..models.tokenizers import save_tokenizer
from ..tasks.columns import ReadRows, num_labelled
from ..tasks.encoding import length_of_rows, some_tokens
from ..tasks.kinds import CLASSES, VALUES
from ..tasks.rows_task import RowsTask, read_labelled
from ..training.ranks import refuse_ranks
from ..training.run_folder import check_same_identity, existing_files, folder_claimed
from .evaluated_model import load_model
from .fine_tuning import FineTuned, FineTuningSettings, fine_tuned, task_metrics
from .task_runs import chosen_rate, training_rows, with_length

_TRAINING_FOLDER = "training"
_SAVE_STEPS = 500
_OF_A_START = ("resume", "output_dir")  # settings that a resumed run may have otherwise
_MAKE_ROOM = "Make room, then go on with resume=true"


@dataclass(frozen=True)
class OwnTaskSettings(FineTuningSettings):
    """Settings of [`fine_tune_own`].

    Raises:
        ValueError: a value is missing or out of range.
    """

    model: str = setting(
        "", "What to fine-tune: export, run, folder of a BERT (with a head or none) or Hub name.", text="a name"
    )
    teacher: str | None = setting(
        None, "Fine-tuned for the same labels, to learn from: folder or Hub name.", text="a folder or Hub name"
    )
    train_data: str = setting("", "Labelled rows: a file, folder, glob or Hub data set.", text="a name")
    eval_data: str | None = setting(
        None, "Rows to measure on, of the same columns; default: a tenth of train_data, kept aside.", text="a name"
    )
    text_columns: tuple[str, ...] = setting(
        (), "One, or two for pairs; default: found by usual names, such as text.", text="a name"
    )
    label_column: str | None = setting(
        None,
        "Names or whole numbers, 1.0 too: classes; fractions: a regression; default: found by usual names, as label.",
        text="a name",
    )
    output_dir: str = setting("", f"Gets {MODEL_FOLDER}/ and results.json.", text="a name")
    seed: int = setting(0, "Of head, order of rows and dropout.", least=0, most=2**32 - 1)
    resume: bool = setting(False, "Go on with the run in output_dir; one that has ended gives its results again.")


def fine_tune_own(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose a rate on held-out training rows, fine-tune, measure, and write the model to `output_dir`.

    Args:
        settings: [`OwnTaskSettings`]. With `resume` a run that was stopped goes on, as if it had never stopped, to the
            last bit: tried rates are read, the training in hand goes on at its last checkpoint.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `results.json`: `metrics` of the evaluation rows (`accuracy` and `macro_f1`, `pearson`
        and `spearman`, or those of another kind), costs of the `model`, `learning_rate`, `settings`.

    Raises:
        ValueError: unreadable rows, a model that can't be fine-tuned, a teacher, a folder that another process works
            in, or one with a fine-tuning that was stopped, without `resume` or of other settings.
        FloatingPointError: every rate diverged.
    """
    if settings.teacher is not None:
        raise ValueError(
            f"teacher={settings.teacher!r} has no part here; use the command, or HomoDistilTrainer with teacher_model"
        )
    check_writable(settings.output_dir, f"output_dir={settings.output_dir!r}")
    refuse_ranks()
    with folder_claimed(settings.output_dir, is_main=True):
        return _fine_tune(settings, say)


def _fine_tune(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    start = time.perf_counter()
    folder = Path(settings.output_dir)
    training = folder / _TRAINING_FOLDER
    refuse_link_out(folder, _TRAINING_FOLDER)
    if (folder / MODEL_FOLDER).exists():
        if settings.resume and (folder / RESULTS_FILE).is_file():
            return _finished(settings, say)
        raise ValueError(f"output_dir={settings.output_dir!r} holds {MODEL_FOLDER}/ already; name another folder")
    if existing_files(str(training)) and not (training / SETTINGS_FILE).is_file():
        raise ValueError(
            f"output_dir={settings.output_dir!r} holds {_TRAINING_FOLDER}/, which no fine-tuning wrote and which "
            "would be removed; name another folder"
        )
    if training.is_dir() and not settings.resume:
        raise ValueError(
            f"output_dir={settings.output_dir!r} holds a fine-tuning that was stopped; set resume, or name another "
            "folder"
        )
    # everything that may be refused comes before the folder says that a run has begun
    keep_datasets_here()
    evaluated = load_model(settings.model, needs_head=False)
    if (name := type(evaluated.model).__name__) not in HEADS:
        left = "; its pooling and prompts are left out" if model_file(evaluated.source, MODULES_FILE) else ""
        say(f"{settings.model} is a {name}, an encoder without a head: it gets a fresh one for the labels{left}")
    has_length = settings.max_length is not None
    settings = with_length(settings, evaluated)
    given = check_start(training / SETTINGS_FILE, settings)
    task, train, dev = own_rows(settings, evaluated.tokenizer, say)
    columns = task.columns
    settings = replace(settings, text_columns=columns.texts, label_column=",".join(columns.labels))
    if task.kind not in (CLASSES, VALUES) and not has_length:
        length = length_of_rows(train, columns, evaluated.model.config, evaluated.tokenizer)
        settings = replace(settings, max_length=length)
    train = training_rows(train, settings.max_train_samples)
    training.mkdir(exist_ok=True)
    write_json(training / SETTINGS_FILE, given)  # now that nothing was refused

    # one fine-tuning, for a trial or for good, and what is measured of it
    def trained_on(rows: Dataset, folder: Path, save_steps: int | None = None, **changes: Any) -> FineTuned:
        changed = replace(settings, learning_rates=(), **changes)
        saving: dict[str, Any] = {"folder": folder, "save_steps": save_steps}
        return fine_tuned(evaluated, task, rows, settings=changed, seed=settings.seed, **saving)

    def measured(model: PreTrainedModel, rows: Dataset) -> dict[str, float]:
        return task_metrics(model, rows, task, evaluated.tokenizer, settings.row_length)

    def metrics_aside(rows: Dataset, aside: Dataset, folder: Path, **changes: Any) -> dict[str, float]:
        return measured(trained_on(rows, folder, **changes).model, aside)

    rate = chosen_rate(
        replace(evaluated, results=training),
        settings,
        train,
        columns,
        metrics_aside,
        lambda metrics: next(iter(metrics.values())),
        depends_on=given,
        seed=settings.seed,
        say=say,
    )
    # train with it on all rows, measure, and write
    trained = trained_on(train, training / "run", save_steps=_SAVE_STEPS, learning_rate=rate)
    results = {"metrics": measured(trained.model, dev), "learning_rate": rate, "num_steps": trained.num_steps}
    results |= {"settings": asdict(settings), "model": model_facts(trained.model)}
    results |= {"num_train_rows": len(train), "num_eval_rows": len(dev)}
    results |= {"time_s": round(time.perf_counter() - start, 1)}
    with model_written(folder / MODEL_FOLDER, remedy=_MAKE_ROOM) as unfinished:
        stock: Any = to_stock(trained.model) if isinstance(trained.model, LayerwiseModel) else trained.model
        stock.save_pretrained(unfinished)
        save_tokenizer(evaluated.tokenizer, unfinished)
        write_json(folder / RESULTS_FILE, results)  # first: the model's folder says that all is done
    remove_folder(training)
    return results


def _finished(settings: OwnTaskSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """The results of a fine-tuning that ended, for one that is resumed with the same settings."""
    folder = Path(settings.output_dir)
    label = f"{RESULTS_FILE} in output_dir={settings.output_dir!r}"
    results = read_json_object(folder / RESULTS_FILE, label)
    if not fits(results, {"metrics": dict, "num_eval_rows": int, "settings": dict}):
        raise ValueError(f"{label} is of no fine-tuning; name another folder")
    # what was found in rows and model stands there for settings that weren't given
    found = {name for name in ("text_columns", "label_column", "max_length") if not getattr(settings, name)}
    now = {name: value for name, value in _as_json(settings).items() if name not in found}
    check_same_identity(settings.output_dir, results["settings"], now)
    remove_folder(folder / _TRAINING_FOLDER)  # of a process that was killed before it did that
    say(f"{folder / MODEL_FOLDER} is there already: the run has ended, and nothing is left to do")
    return results


def own_rows(
    settings: OwnTaskSettings,
    tokenizer: PreTrainedTokenizerBase,
    say: Callable[[str], None],
    model: PreTrainedModel | None = None,
) -> tuple[RowsTask, Dataset, Dataset]:
    """Read the rows that settings name, and say what was read, in the tokenizer's words; see [`read_labelled`]."""
    found = read_labelled(
        settings.train_data,
        settings.eval_data,
        text_columns=settings.text_columns,
        label_column=settings.label_column,
        model=model,
    )
    columns, (train, dev) = found[0].columns, found[1:]
    words = columns_words((*columns.texts, *columns.labels), train.column_names)
    parts = (ReadRows(train, columns, "train_data"), ReadRows(dev, columns, "eval_data"))
    tokens: dict[str, Any] = {"tokenizer": tokenizer, "tokens": some_tokens(train, columns, tokenizer, MEASURED_ROWS)}
    say(read_line({"to train on": train, "held out": dev}, words, num_labelled=num_labelled(parts), **tokens))
    return found


def check_start(record: Path, settings: OwnTaskSettings) -> dict[str, Any]:
    """Refuse, by a ValueError, to go on with other settings than those in `record`; those of this run, as JSON."""
    now = _as_json(settings)
    if record.is_file():
        before = read_json_object(record, f"{record.name} in output_dir={settings.output_dir!r}")
        check_same_identity(settings.output_dir, before, now)
    return now


def _as_json(settings: OwnTaskSettings) -> dict[str, Any]:
    """Settings that a resumed run must have alike, as JSON has them."""
    values: dict[str, Any] = json.loads(
        json.dumps({name: value for name, value in asdict(settings).items() if name not in _OF_A_START})
    )
    return values
