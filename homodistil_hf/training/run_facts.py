"""What a run measures and notes for the facts of its exports: times of a pass, changed settings, names of rows.

`export/facts.py` checks the sections.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.trainer_utils import has_length

from ..files.provenance import machine_facts
from ..files.settings import differing
from ..models.architectures import max_tokens
from ..models.equality import evaluation_mode
from ..plans.latency import figures, model_inputs, time_in_turns
from ..training_args import ExactArguments

_BATCH_SIZE, _LENGTH = {"cpu": 8}, 128
_ANY_BATCH_SIZE = 32  # of a device that a few texts would not fill
_TURNS: dict[str, Any] = {"num_rounds": 7, "num_warmup": 1, "num_passes": 1, "rest_s": 0.0}
_FORMATS_OF_FILES = ("json", "parquet", "csv", "text", "generator", "arrow", "pandas")
_MADE_BY_LIBRARY = (
    *("dataloader_pin_memory", "use_cpu", "accelerator_config", "output_dir", "logging_dir"),
    *("disable_tqdm", "do_eval", "dataloader_num_workers"),
)
_OFF_BY_LIBRARY = ("gradient_checkpointing", "activation_checkpointing")  # False where nothing was given


def measured_latency(teacher: PreTrainedModel, student: PreTrainedModel) -> dict[str, Any]:
    """Time a student beside its teacher, in turns, on the teacher's device.

    Args:
        teacher: float32.
        student: of the export; a copy is moved.

    Returns:
        `dict`: `teacher_ms` and `student_ms`, medians of one pass; `batch_size`, `length`, `device`, `machine`.
    """
    device = teacher.device
    batch_size = _BATCH_SIZE.get(device.type, _ANY_BATCH_SIZE)
    length = min(_LENGTH, max_tokens(teacher.config))
    tokens, mask = (tensor.to(device) for tensor in model_inputs(teacher.config, batch_size, length))
    models = {"teacher": teacher, "student": student.to(device)}

    def forward(model: PreTrainedModel) -> None:
        type(model).forward(model, input_ids=tokens, attention_mask=mask)  # the instance's may be wrapped
        # a GPU works in the background: without waiting only the launch would be timed
        if device.type != "cpu":
            torch.accelerator.synchronize()

    with torch.no_grad(), evaluation_mode(teacher), evaluation_mode(student):
        passes = {name: lambda model=model: forward(model) for name, model in models.items()}
        times = figures(time_in_turns(passes, **_TURNS))["latency"]
    medians = {f"{name}_ms": round(values["median_ms"], 3) for name, values in times.items()}
    facts = machine_facts()
    processor = f"{facts['processor']}, {facts['num_threads']} thread{'s' * (facts['num_threads'] > 1)}"
    machine = facts["gpu"] if device.type == "cuda" else processor
    return {**medians, "batch_size": batch_size, "length": length, "device": device.type, "machine": machine}


def changed_settings(args: ExactArguments) -> dict[str, Any]:
    """Settings of a script that differ from their defaults, without those that a library or the trainer set."""
    values = {name: value for name, value in args.to_dict().items() if value not in (None, "", [], {})}
    made = {*_MADE_BY_LIBRARY, *(name for name in _OFF_BY_LIBRARY if not values.get(name))}
    made |= {"data_seed"} if args.data_seed == args.seed else set()  # which a trainer takes from the seed
    return {name: value for name, value in differing(values, type(args)).items() if name not in made}


def facts_of_rows(train: Any, held_out: Any) -> dict[str, Any]:
    """Names and numbers of rows, as far as data sets have them; `held_out` may be several sets by name."""
    sets = list(held_out.values()) if isinstance(held_out, dict) else [held_out]
    facts: dict[str, Any] = {"train": _names([train]), "held_out": _names(sets)}
    if train is not None and has_length(train):
        facts["num_train_rows"] = len(train)
    if all(rows is not None and has_length(rows) for rows in sets):
        facts["num_held_out_rows"] = sum(map(len, sets))
    return {name: value for name, value in facts.items() if value != []}


def _names(sets: list[Any]) -> list[str]:
    names = [getattr(getattr(rows, "info", None), "dataset_name", None) for rows in sets]
    # data sets of plain files are called after their format, which is no name
    return list(dict.fromkeys(name for name in names if name and name not in _FORMATS_OF_FILES))
