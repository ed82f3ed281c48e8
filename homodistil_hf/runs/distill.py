"""All that one config asks for, in its order: another run that makes the teacher, trimming, one student or a chain.

`further_pretraining.py` makes another teacher, `trim.py` trims it, `student.py` makes one student, `family.py` a chain
of sizes. Each is imported where a config asks for it. Lines for the user go to a callable.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..files.checkpoints import sorted_checkpoints
from ..files.run_names import FAMILY_FILE, STUDENT_FOLDER
from ..training.run_folder import check_free, existing_files, folder_claimed
from ..training_args import with_settings
from .kinds import run_kind_of, student_kind_of
from .settings import Log, RunConfig
from .student import train_student


def run(settings: RunConfig, log: Log = print) -> dict[str, Any]:
    """Run what a config of any method asks for, all that `homodistil distill` does.

    Args:
        settings: what [`parse_run`] returned.
        log: takes lines for the user; it is called on the main process.

    Returns:
        `dict`: what was written to `results.json`.

    Raises:
        ValueError: something about the settings, the data or the teacher can't work.
        OSError: a file or a Hub repository can't be read or written.
    """
    if not settings.is_main:
        log = lambda line: None  # noqa: E731  the user reads the lines of the main process
    kind = run_kind_of(settings)
    if settings.training is None:  # it claims its folder itself
        results = kind.run(settings, log)
    else:
        with folder_claimed(settings.output_dir, is_main=settings.is_main):
            results = (kind.run or distill)(settings, log)
    if settings.is_main and results:
        from ..export.report import try_report

        try_report(settings.output_dir)
    return results


def distill(settings: RunConfig, log: Log) -> dict[str, Any]:
    """Make the teacher that a distillation asks for, and train its student or chain of students; as [`run`]."""
    if settings.run.further_pretraining is not None:
        from .further_pretraining import further_pretraining_of

        training, first = settings.training, further_pretraining_of(settings)
        if not training.resume_from_checkpoint:
            has_begun = bool(existing_files(str(first.training.output_dir)))
            check_free(training, existing_files(str(training.output_dir)), has_begun=has_begun)
        # refuse what can't work before hours are spent on the teacher, whose shape stays as it is
        student_kind_of(settings).inputs(settings)
        log(f"\nfurther pretraining of {settings.run.teacher}")
        run(first, log)
        folder = Path(str(first.training.output_dir), STUDENT_FOLDER)
        settings = with_teacher(settings, str(folder), done="further_pretraining")
    if settings.run.vocabulary is not None:
        from .trim import trimmed_teacher

        settings = with_teacher(settings, trimmed_teacher(settings, log), done="vocabulary")
    if settings.members:
        from .family import distill_family

        return distill_family(settings, log)
    return train_student(settings, log)


def with_teacher(settings: RunConfig, teacher: str, *, done: str) -> RunConfig:
    """The same distillation with a teacher that was made for it in its folder, and without the setting that did it."""
    training = settings.training
    dropped: dict[str, Any] = dict.fromkeys(("teacher_revision", "tokenizer", done))
    folder = str(training.output_dir)
    # It may have been interrupted before the distillation began.
    has_begun = bool(sorted_checkpoints(folder)) or Path(folder, FAMILY_FILE).is_file()
    resume = training.resume_from_checkpoint if has_begun else None

    def changed(one: RunConfig, training: Any) -> RunConfig:
        given = {name: value for name, value in one.given.items() if name not in dropped} | {"teacher": teacher}
        return RunConfig(replace(one.run, teacher=teacher, **dropped), training, given)

    training = with_settings(training, resume_from_checkpoint=resume, overwrite_output_dir=True)
    members = tuple(changed(member, member.training) for member in settings.members)
    return replace(changed(settings, training), members=members)
