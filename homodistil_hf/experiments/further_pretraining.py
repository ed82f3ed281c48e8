"""Self-distillation as a JSON file says, alone or before a distillation whose teacher it makes.

How rounds go and what stands in their folders is told in `rounds.py`.
"""

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..export.student_in_folder import RESULTS_FILE, SETTINGS_FILE, STUDENT_FOLDER
from ..files.caches import keep_datasets_here
from ..files.messages import short_repr
from ..files.provenance import version_facts
from ..files.strict_json import write_json
from ..methods.self_distillation.rounds import check_folder, run_identity, self_distill
from ..methods.self_distillation.trainer import SELF_DISTILLATION
from ..training.checks import check_free, existing_files
from .config import FurtherConfig, RunArguments, RunConfig, further_of
from .distill import Say, check_readers, check_sources, load_blocks, with_teacher

FURTHER_FOLDER = "further_pretraining"
_OF_THE_METHOD = ("method", "method_settings", "further_pretraining", "vocabulary")
_SHARED = (
    *(entry.name for entry in fields(RunArguments) if entry.init and entry.name not in _OF_THE_METHOD),
    *("seed", "bf16", "fp16", "use_cpu", "report_to", "disable_tqdm", "logging_steps"),
)
_DECIDED = ("method", "teacher", "teacher_revision", "output_dir", "resume_from_checkpoint", "overwrite_output_dir")


def further_pretrain(settings: FurtherConfig, say: Say) -> dict[str, Any]:
    """Run all rounds, and write `results.json`; on the main process `say` takes lines for the user.

    Returns:
        `dict`: what was written to `results.json`.

    Raises:
        ValueError: something about the settings, the data or the model can't work.
        OSError: a file or a Hub repository can't be read or written.
    """
    since = time.perf_counter()
    run, training = settings.run, settings.training
    if run.streaming:
        raise ValueError(f"streaming=True is not supported for method={SELF_DISTILLATION!r}; leave it out")
    check_folder(training, run_identity(run.teacher, run.teacher_revision))
    readers = check_readers(settings)
    keep_datasets_here()
    training.dataloader_pin_memory &= torch.accelerator.is_available()  # torch warns otherwise
    with training.main_process_first(desc="reading the text"):
        is_main = training.process_index == 0
        train_blocks, eval_blocks = load_blocks(settings, readers, say if is_main else lambda line: None)
    results = self_distill(
        run.teacher,
        training,
        revision=run.teacher_revision,
        train_dataset=train_blocks,
        eval_dataset=eval_blocks,
        processing_class=readers.tokenizer,
    )
    results |= {"versions": version_facts(), "settings": settings.given}
    results |= {"time_s": round(time.perf_counter() - since, 1)}
    if training.should_save:
        write_json(Path(str(training.output_dir), SETTINGS_FILE), settings.given)
        write_json(Path(str(training.output_dir), RESULTS_FILE), results)
    return results


def after_further_pretraining(settings: RunConfig, say: Say) -> RunConfig:
    """Do what `further_pretraining` of a distillation asks for, in a folder of its own below `output_dir`.

    Returns:
        [`RunConfig`]: the same distillation with what came out as its teacher.

    Raises:
        ValueError: settings of either that can't work, before anything is trained.
    """
    run, training = settings.run, settings.training
    first = _first(settings)
    if not training.resume_from_checkpoint:
        check_free(training, existing_files(str(training.output_dir)))
    check_sources(settings)  # the shape of its teacher stays the same
    say(f"\nfurther pre-training of {run.teacher}")
    further_pretrain(first, say)
    student = str(Path(str(first.training.output_dir), STUDENT_FOLDER))
    return with_teacher(settings, student, done="further_pretraining")


def _first(settings: RunConfig) -> FurtherConfig:
    training, values = settings.training, settings.run.further_settings
    if settings.members:
        raise ValueError(
            f"further_pretraining={short_repr(values)} goes before one student, student={settings.given['student']} "
            f"are several; run method={SELF_DISTILLATION!r} first, and name its student/ as the teacher"
        )
    if training.resume_from_checkpoint not in (None, "last"):
        raise ValueError(
            f"resume_from_checkpoint={short_repr(training.resume_from_checkpoint)} is not supported with "
            "further_pretraining, which finds its checkpoints itself; use 'last'"
        )
    for name in _DECIDED:
        if name in values:
            raise ValueError(
                f"further_pretraining has {name}={short_repr(values[name])}, which the run decides; drop it"
            )
    shared = {name: settings.given[name] for name in _SHARED if name in settings.given}
    decided = {
        "method": SELF_DISTILLATION,
        "output_dir": str(Path(str(training.output_dir), FURTHER_FOLDER)),
        "resume_from_checkpoint": training.resume_from_checkpoint,
        "overwrite_output_dir": training.overwrite_output_dir,
        "hub_token": training.hub_token,
    }
    return further_of(shared | values | decided, "further_pretraining")
