"""All that one config asks for, in its order: another run that makes the teacher, trimming, one student or a family.

`further_pretraining.py` makes another teacher, `trim.py` trims it: each is imported where a config asks for it.
`student.py` makes one student. Lines for the user go to a callable.

A family is a list of students, one run after the other, each from the student of the one before, all with the same
teacher. Every member is a run of its own in a folder of `output_dir`, with the whole schedule and learning-rate curve
of the settings. `family.json` holds the members, their widths, and which are done. The file is replaced as a whole, so
a family that was killed at any moment goes on where it was.
"""

import gc
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..distillation.projections import Projections
from ..export.export_folder import check_output, load_export
from ..export.facts import FACTS_FILE
from ..files.checkpoints import PROJECTIONS_FILE, last_checkpoint, sorted_checkpoints
from ..files.inside import refuse_link_out
from ..files.messages import short_repr
from ..files.provenance import version_facts
from ..files.run_names import (
    FAMILY_FILE,
    FURTHER_FOLDER,
    RESULTS_FILE,
    SETTINGS_FILE,
    STUDENT_FOLDER,
    TRIMMED_FOLDER,
)
from ..files.strict_json import fits, read_json_object, write_json
from ..files.tensors import load_tensors
from ..models.architectures.architecture import PROJECTIONS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_student
from ..models.cost import encoder_macs
from ..models.equality import tensors_digest
from ..models.loading import MODULES_FILE
from ..models.saved_student import save_projections
from ..models.widths import WidthPlan, widths_of
from ..plans.budgets import is_latency_budget, leaves_layers_open, share_as_budget
from ..plans.resolve import check_family, resolve_plan
from ..training.ranks import on_every_rank
from ..training.run_folder import (
    TEACHER_SHA256,
    check_free,
    check_not_read,
    existing_files,
    folder_claimed,
    forget_earlier_run,
    recorded_start,
)
from ..training_args import with_settings
from .kinds import RunInputs, method_of_model, run_kind_of, student_kind_of, trainer_named
from .settings import Log, RunConfig
from .student import make_trainer, train_student, train_to_the_end

logger = logging.getLogger(__name__)

_FAMILY_METHODS = ("homodistil", "embedding", "sparse", "multi_vector", "reranker")
"""Methods whose students may start as another student; baselines start from their teacher or anew."""
_READ = ("teacher", "start")
"""Settings that name models."""
_WRITTEN = {"vocabulary": TRIMMED_FOLDER, "further_pretraining": FURTHER_FOLDER}
"""Setting → the folder of the teacher that a run makes for it."""


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
            if settings.training.overwrite_output_dir and not settings.training.resume_from_checkpoint:
                read = {name: getattr(settings.run, name, None) for name in _READ}
                written = [
                    folder for name, folder in _WRITTEN.items() if getattr(settings.run, name, None) is not None
                ]
                check_not_read(settings.output_dir, read, written=(STUDENT_FOLDER, *written))
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
        kind = student_kind_of(settings)
        kind.plan(settings, kind.inputs(settings))
        if not training.resume_from_checkpoint and settings.is_main:
            forget_earlier_run(str(training.output_dir))
        log(f"\nfurther pretraining of {settings.run.teacher}")
        run(first, log)
        folder = Path(str(first.training.output_dir), STUDENT_FOLDER)
        settings = with_teacher(settings, str(folder), done="further_pretraining")
    if settings.run.vocabulary is not None:
        from .trim import trimmed_teacher

        settings = with_teacher(settings, trimmed_teacher(settings, log), done="vocabulary")
    if settings.members:
        return distill_family(settings, log)
    return train_student(settings, log)


def with_teacher(settings: RunConfig, teacher: str, *, done: str) -> RunConfig:
    """The same distillation with a teacher that was made for it in its folder, and without the setting that did it."""
    training = settings.training
    dropped: dict[str, Any] = dict.fromkeys(("teacher_revision", "tokenizer", done))
    folder = str(training.output_dir)
    # It may have been interrupted before the distillation began.
    has_begun = bool(sorted_checkpoints(folder)) or Path(folder, FAMILY_FILE).is_file()
    resume = training.resume_from_checkpoint
    resume = None if resume == "last" and not has_begun else resume  # a named checkpoint is another run's, or refused

    def changed(one: RunConfig, training: Any) -> RunConfig:
        given = {name: value for name, value in one.given.items() if name not in dropped} | {"teacher": teacher}
        return RunConfig(replace(one.run, teacher=teacher, **dropped), training, given)

    training = with_settings(training, resume_from_checkpoint=resume, overwrite_output_dir=True)
    members = tuple(changed(member, member.training) for member in settings.members)
    return replace(changed(settings, training), members=members)


# A family


def distill_family(settings: RunConfig, log: Log) -> dict[str, Any]:
    """Train the members of a family that are not finished yet, and describe all of them.

    Arguments and errors are those of [`distill`].

    Returns:
        `dict`: what was written to `results.json`; empty on all but the main process.
    """
    _check_settings(settings)
    recorded = on_every_rank(lambda: _recorded(settings))
    members, is_main, inputs = settings.members, settings.is_main, student_kind_of(settings).inputs(settings)
    plans = plan_members(settings, inputs, recorded)
    written = [plan.to_dict(of_layers=inputs.config.num_hidden_layers) for plan in plans]
    state = recorded or _identity(settings) | {"plans": written, "finished": []}
    on_every_rank(lambda: _write_start(settings, state, is_new=recorded is None) if is_main else None)
    for number, member in enumerate(members):
        if member.folder.name not in state["finished"]:
            previous = members[number - 1] if number else None
            origin = previous.given["student"] if previous else "the teacher"
            log(f"\nmember {number + 1} of {len(members)}: {member.given['student']}, from {origin}")
            _train_member(member, inputs, plans[number], log, state, previous=previous.folder if previous else None)
            state["finished"].append(member.folder.name)
            on_every_rank(lambda: write_json(settings.folder / FAMILY_FILE, state) if is_main else None)
    if not is_main:
        return {}
    results = _results(settings, inputs)
    write_json(settings.folder / RESULTS_FILE, results)
    return results


def _check_settings(settings: RunConfig) -> None:
    method, students = settings.run.method, short_repr(settings.given["student"])
    if method not in _FAMILY_METHODS:
        raise ValueError(
            f"method={method!r} is not supported for a family (student={students}); name one student, or use "
            "'homodistil'"
        )
    for member in settings.members:
        refuse_link_out(settings.folder, member.folder.name)
        check_output(member.folder / STUDENT_FOLDER, overwrite=True)


def plan_members(settings: RunConfig, inputs: RunInputs, state: Mapping[str, Any] | None) -> list[WidthPlan]:
    """The widths of all members, and all else about them that can be known before the first is trained."""
    recorded: Sequence[Mapping[str, Any] | None] = state["plans"] if state else [None] * len(settings.members)
    plans: list[WidthPlan] = []
    for member, plan in zip(settings.members, recorded, strict=True):
        if (length := settings.run.max_seq_length) != member.run.max_seq_length:
            member.run.max_seq_length = member.given["max_seq_length"] = length  # a default was lowered
        if plan:  # it holds: a budget of milliseconds would be measured anew
            training = with_settings(member.training, student=json.dumps(plan))
            plans.append(student_kind_of(member).plan(replace(member, training=training), inputs))
        else:  # the member before is the upper limit
            plans.append(_within(plans[-1] if plans else None, member, inputs))
    teacher = widths_of(inputs.config)
    check_family(settings.given["student"], plans, teacher)
    # of what members start from: the teacher, and every member but the last
    heads = [[layer.num_attention_heads for layer in plan.layers] for plan in (teacher, *plans[:-1])]
    if settings.training.attention_weight > 0 and any(numbers != heads[0] for numbers in heads):
        raise ValueError(
            f"attention_weight={settings.training.attention_weight} needs members with the teacher's heads "
            f"({heads[0][0]} a layer), but for the last; set it to 0, or add ,num_attention_heads={heads[0][0]} to "
            "the budgets"
        )
    return plans


def _within(earlier: WidthPlan | None, member: RunConfig, inputs: RunInputs) -> WidthPlan:
    """Plan a budget with all layers, and a smaller one with no width above those of the member before."""
    student, training = member.training.student or "", member.training
    plan = student_kind_of(member).plan(member, inputs)
    if earlier is not None and encoder_macs(plan) >= encoder_macs(earlier):
        earlier = None
    if is_latency_budget(student) or not (earlier or leaves_layers_open(share_as_budget(student))):
        return plan
    multiple, plain = training.width_multiple, training.plain
    return resolve_plan(student, inputs.config, within=earlier, multiple=multiple, plain=plain)


def _recorded(settings: RunConfig) -> dict[str, Any] | None:
    """What an interrupted family has left, with what is done; None for one that starts anew."""
    state = recorded_start(settings.training, FAMILY_FILE, _identity(settings))
    if state is None:
        return None
    if not fits(state, {"plans": [dict], "finished": [str]}) or len(state["plans"]) != len(settings.members):
        raise ValueError(
            f"{FAMILY_FILE} in output_dir={str(settings.folder)!r} is none that a family has written; set "
            "overwrite_output_dir to start anew"
        )
    files = (RESULTS_FILE, PROJECTIONS_FILE, f"{STUDENT_FOLDER}/{FACTS_FILE}")
    finished = [member.folder for member in settings.members if member.folder.name in state["finished"]]
    state["finished"] = [folder.name for folder in finished if all((folder / name).is_file() for name in files)]
    return state


def _identity(settings: RunConfig) -> dict[str, Any]:
    run = settings.run
    # of given vectors their files
    return {"teacher": run.teacher or ", ".join(run.train_data), "students": settings.given["student"]}


def _write_start(settings: RunConfig, state: Mapping[str, Any], *, is_new: bool) -> None:
    """Write down what is trained; of a family that goes on, warn of settings that its finished members hadn't."""
    path, finished = settings.folder / SETTINGS_FILE, state["finished"]
    if is_new:
        # in this order: what an earlier family has left must never pass for this one's
        for folder in (settings.folder, *(member.folder for member in settings.members)):
            forget_earlier_run(str(folder))
        write_json(settings.folder / FAMILY_FILE, state)
    elif finished and path.is_file():
        earlier = read_json_object(path, SETTINGS_FILE)
        now = settings.recorded
        names = (earlier.keys() | now.keys()) - {"teacher"}  # whose weights are compared
        if others := sorted(name for name in names if earlier.get(name) != now.get(name)):
            logger.warning("%s were trained with other settings: %s differ", ", ".join(finished), ", ".join(others))
    write_json(path, settings.recorded)


def _train_member(
    member: RunConfig, inputs: RunInputs, plan: WidthPlan, log: Log, state: dict[str, Any], *, previous: Path | None
) -> None:
    from ..export.report import try_report

    since, folder = time.perf_counter(), member.folder
    checkpoint = last_checkpoint(folder)
    start = None if previous is None else load_start(previous)
    trainer = make_trainer(member, log, inputs=inputs, plan=plan, start=start)
    digest = tensors_digest(trainer.frozen_teacher)
    if state.setdefault(TEACHER_SHA256, digest) != digest:
        raise ValueError(
            f"teacher={member.run.teacher!r} has other weights than when the family in {str(folder.parent)!r} began; "
            "resume with those, or name another output_dir"
        )
    if previous is not None:
        trainer.started_as = previous.name
    train_to_the_end(trainer, member, checkpoint, since=since)
    if trainer.is_world_process_zero():
        save_projections(folder, trainer.model)
        try_report(folder)
    del trainer
    gc.collect()  # a trainer is full of cycles, and the next member wants its memory


def load_start(folder: Path) -> LayerwiseModel:
    """Load a finished member of a chain as what the next one starts as: its student, with its projections."""
    student, tensors = folder / STUDENT_FOLDER, load_tensors(folder / PROJECTIONS_FILE)
    if (student / MODULES_FILE).is_file():
        load = trainer_named(method_of_model(str(student)) or "embedding").load
        model = to_student(load(student, argument="folder").encoder, needs_head=False)
    else:
        model = load_export(student)
    if not tensors:
        return model
    # matrices of states become projections; all else, such as the map of vectors, becomes a buffer
    of_states = {name: tensor for name, tensor in tensors.items() if name.startswith(("hidden.", "embedding."))}
    num_layers = sum(name.startswith("hidden.") for name in of_states)
    # matrices are (teacher's size, student's size)
    sizes = model.config.hidden_size, next(iter((of_states or tensors).values())).shape[0]
    projections = Projections(*sizes, num_hidden_layers=num_layers, with_embedding="embedding.weight" in of_states)
    projections.load_state_dict(of_states)
    for name in tensors.keys() - of_states.keys():
        projections.register_buffer(name.replace(".", "_"), tensors[name])
    model.add_module(PROJECTIONS, projections)
    return model


def _results(settings: RunConfig, inputs: RunInputs) -> dict[str, Any]:
    folders = [member.folder for member in settings.members]
    results = {
        folder.name: read_json_object(folder / RESULTS_FILE, f"{RESULTS_FILE} in {folder}") for folder in folders
    }
    first = results[folders[0].name]
    of_members = student_kind_of(settings).of_members
    return {
        "method": settings.run.method,
        # the teacher once, then the student of each member
        "models": [first["models"][0], *(one["models"][-1] | {"name": name} for name, one in results.items())],
        "members": [
            {"folder": folder, **{name: one[name] for name in ("plan", "evaluation", "num_steps", "time_s")}}
            for folder, one in results.items()
        ],
        "num_steps": sum(one["num_steps"] for one in results.values()),
        "versions": version_facts(),
        "settings": settings.given,
        "time_s": round(sum(one["time_s"] for one in results.values()), 1),
        **(of_members(settings, inputs, folders) if of_members else {}),
    } | ({"rows": first["rows"]} if "rows" in first else {})
