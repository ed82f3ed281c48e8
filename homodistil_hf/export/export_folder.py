"""Export folders: a student with tokenizer, facts and card, found in a run, written whole and read back."""

import copy
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from ..files.checkpoints import (
    SCORES_FILE,
    STATE_FILE,
    check_manifest,
    last_checkpoint,
)
from ..files.folders import check_replaceable, check_writable, written_whole
from ..files.inside import files_inside, links_out, refuse_link_out
from ..files.locks import claimed, lock_beside
from ..files.messages import join_some, nearest_valid, short_repr
from ..files.provenance import public_name, version_facts
from ..files.run_names import MODEL_FOLDERS, SETTINGS_FILE, STUDENT_FOLDER, TRIMMED_FOLDER
from ..files.strict_json import read_json_object, write_json
from ..files.tensors import load_tensors
from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import as_stock_reads_it, names_in_4, to_stock, to_student
from ..models.cost import cost_fractions, model_facts, planned_facts
from ..models.loading import load_encoder, load_encoder_config
from ..models.resizing import remove_layers
from ..models.saved_student import plan_in, read_state, weights_without_projections
from ..models.tokenizers import save_tokenizer, stored_tokenizer
from ..models.units import encoder_groups
from ..models.widths import WidthPlan, kept_fractions, nearest_paddable, widths_of
from ..pruning.compaction import compact, remove_padding
from ..pruning.gates import renumbered
from ..pruning.masks import choose_masks, full_masks
from ..pruning.pruner import Pruner
from .facts import (
    CARD_FILE,
    CARD_SECTION,
    FACTS_FILE,
    FACTS_VERSION,
    LATENCY,
    RUN_SECTIONS,
    SIZES,
    TRIMMING_FILE,
    file_facts,
    forms_facts,
    probe_facts,
    read_export_facts,
    read_facts,
    run_facts,
    section_of,
    weights_of,
)
from .hub import teacher_card
from .nested import NestedMember, cut_to, find_member, of_member, read_nested

logger = logging.getLogger(__name__)

FORMATS = ("standard", "compact")
_RECORDS = (FACTS_FILE, TRIMMING_FILE)
"""Files that list all others of a folder that is written whole."""
_OF_VECTORS = ("embedding", "sparse", "multi_vector")  # methods
_WAIT_S = 60.0  # for another process that writes the folder
Teacher: TypeAlias = str | Path | PreTrainedModel | Mapping[str, Any] | None


def export_student(
    model: PreTrainedModel,
    folder: str | Path,
    format: str = "standard",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher: Teacher = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write a student to a folder that loads with `from_pretrained`; its logits stay the same.

    Args:
        model: a student whose dropped units are cut out, as every trainer of this package leaves it, or a model of a
            stock class; stored in float32.
        folder: where to; created with its parents.
        format: `"standard"`: the stock class of the teacher's architecture; layers of different widths are padded with
            zeros. `"compact"`: unpadded, with modelling files of its own (`trust_remote_code=True`).
        tokenizer: saved along.
        teacher: name, folder or model that the student was made from, for `facts.json` and the card; or the `teacher`
            section of another export's `facts.json`.
        facts: further sections of `facts.json`: name of a section (`"training"`; all: `RUN_SECTIONS`, facts.py) →
            mapping of names to JSON values.
        overwrite: replace an earlier export in the folder. A folder that holds anything else is never replaced.
        also: writes further files into the folder, which its facts list, too.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: unknown format or section of facts, a folder that is not free, widths that the stock class can't
            hold, or logits that are not finite.
        OSError: the folder can't be written; an earlier export there stays as it was.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(
        ...     vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ... )
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = export_student(BertForMaskedLM(config), Path(parent) / "student", "compact")
        ...     sorted(path.name for path in folder.iterdir() if path.suffix == ".py")
        ['modeling_homobert.py', 'modeling_layerwise.py']
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; {nearest_valid(format, FORMATS)}")
    from .card import render_card  # words, which loading an export needn't wait for

    # what can't work is refused before anything is computed
    target = check_target(folder, overwrite=overwrite)
    run = run_facts(facts)
    student = to_student(model, argument="model").cpu().eval()
    exported = to_stock(student) if format == "standard" else student
    if format == "compact":  # `save_pretrained` would name the class of this instance only
        student.config.auto_map = architecture_of(student.config).auto_map
    teacher_section, costs = _teacher_section(teacher), model_facts(exported)
    contents = {
        "format": format,
        "requires": {"transformers": "≥ 5.14"} if format == "compact" else {},
        "student": costs,
        "forms": forms_facts(student),
        "teacher": teacher_section,
        "cost_fractions": cost_fractions(costs, teacher_section),
        **run,
        "probe": probe_facts(student),
    }
    code = architecture_of(student.config).modeling_files if format == "compact" else ()
    with written_aside(target, overwrite=overwrite) as aside:
        save_model(exported, aside, tokenizer, code=code)
        if also is not None:
            also(aside)
        write_record(aside, contents, render_card)
    return target


def load_export(folder: str | Path) -> LayerwiseModel:
    """Load an export of either format as a student in float32, in evaluation mode; padding is cut off again.

    Raises:
        ValueError: no export, or its weights or facts can't be used.
    """
    folder = Path(folder)
    forms = read_export_facts(folder)["forms"]
    student = to_student(load_encoder(str(folder), argument="folder"), argument="folder")
    if forms:
        plan = WidthPlan.from_dict(forms["compact"]["plan"], student.config.num_hidden_layers)
        if plan != widths_of(student.config):
            remove_padding(student, plan)
    return student


def load_nested_export(folder: Path, member: Any) -> tuple[LayerwiseModel, NestedMember]:
    """Load one member of a nested student, or a size between two; and what the folder says of it."""
    student, members, whole_macs = read_nested(folder, load_encoder(str(folder), argument="folder"))
    found = find_member(student, members, member, whole_macs=whole_macs)
    return cut_to(student, found.plan), found


def convert_export(
    source: str | Path,
    folder: str | Path,
    format: str,
    *,
    teacher: Teacher = None,
    overwrite: bool = False,
    member: str | None = None,
) -> Path:
    """Write an export again, in another format or another place, see [`export_student`].

    By default the teacher is that of the source's facts. Of a nested student one `member`, by default the largest.
    """
    source, earlier = Path(source), read_export_facts(source)
    run = {name: earlier[name] for name in RUN_SECTIONS if name in earlier}
    # Times are of the weights that were timed; one form of a student may have zeros that the other lacks.
    if earlier["forms"] and earlier["format"] != format:
        run.pop(LATENCY, None)
    if member is None:
        student = load_export(source)
        run.pop(SIZES, None)  # the largest alone is written
    else:
        student, found = load_nested_export(source, member)
        run = of_member(run, found)
    return export_student(
        student,
        folder,
        format,
        tokenizer=stored_tokenizer(source),
        teacher=teacher if teacher is not None else earlier.get("teacher"),
        facts=run,
        overwrite=overwrite,
    )


def check_output(folder: str | Path, *, overwrite: bool = False, argument: str = "folder") -> Path:
    """Check, before a long run, that its export can be written: the folder is free, and can be replaced as a whole.

    At the end of a run [`written_aside`] finds out, and says what remains.

    `argument` is the user's name for it.

    Returns:
        The folder's absolute path.

    Raises:
        ValueError: it is not free, or can't be written.
    """
    label = f"{argument}={str(folder)!r}"
    check_replaceable(folder, label)
    target = check_target(folder, overwrite=overwrite)
    check_writable(target.parent, label)  # another one where the folder is a link
    return target


def check_target(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Check that a folder is free for an export.

    Returns:
        The folder's absolute path.

    Raises:
        ValueError: it is a file, or holds files that an export would delete.
    """
    target = Path(folder).resolve()
    if not str(folder).strip() or (target.exists() and not target.is_dir()):
        raise ValueError(f"folder={str(folder)!r} is {'a file' if str(folder) else 'empty'}; choose another name")
    for file in (parent / name for parent in target.parents for name in (*_RECORDS, STATE_FILE)):
        values: dict[str, Any] = {}
        with suppress(OSError, ValueError):  # somebody else's file of that name
            values = read_json_object(file, file.name) if file.is_file() else {}
        # a record of this package lists files, or has a plan
        if isinstance(values.get("files"), dict) or isinstance(values.get("plan"), dict):
            raise ValueError(
                f"folder={str(target)!r} lies in {str(file.parent)!r}, whose {file.name} says what belongs there; "
                "name a folder beside that one"
            )
    if not target.is_dir() or not any(target.iterdir()):
        return target
    record = next((name for name in _RECORDS if (target / name).is_file()), None)
    if record is None:
        raise ValueError(f"folder={str(folder)!r} is not empty and holds no export; choose another or empty it")
    if not overwrite:
        raise ValueError(f"folder={str(folder)!r} holds an export already; set overwrite to replace it")
    label = f"{record} in folder={str(folder)!r}"
    files = read_json_object(target / record, label).get("files")
    if not isinstance(files, dict):
        raise ValueError(
            f"{label} has files={short_repr(files)}, which no export has; choose another folder or empty it"
        )
    written = {*files, record, CARD_FILE}
    if foreign := sorted({*files_inside(target), *links_out(target)} - written):
        raise ValueError(
            f"folder={str(folder)!r} holds files that no export wrote ({join_some(foreign)}), which overwrite "
            "would delete; move them away or choose another folder"
        )
    return target


@contextmanager
def written_aside(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes an export's place when the block ends; see [`written_whole`].

    The target is of [`check_target`], whose argument `overwrite` is: it is checked again, as time has passed.
    """

    def what_remains() -> str:
        earlier = ", the earlier one there is as it was" if target.is_dir() else ""
        return f"no export was written to {target}{earlier}. Make room or choose another folder, then export again"

    with written_whole(target, what_remains) as aside:
        check_target(target, overwrite=overwrite)
        yield aside


@contextmanager
def facts_held(folder: str | Path, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Hold an export while its facts are changed, and yield them as they are now; other writers are waited for.

    Args:
        folder: an export.
        facts: those that were read before the work whose results are to be written.

    Raises:
        ValueError: another process holds the folder for a minute, or other weights were exported there meanwhile.
    """
    label = f"folder={str(folder)!r}"
    with claimed(lock_beside(Path(folder).resolve()), label, wait_s=_WAIT_S):
        present = read_facts(Path(folder))
        if weights_of(present) != weights_of(facts):
            raise ValueError(
                f"{label} has other weights than those that were measured: it was exported again; repeat this"
            )
        yield present


def save_model(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None, *, code: Iterable[Path] = ()
) -> None:
    """Write a model, its tokenizer and the modelling files `code`, for `from_pretrained`."""
    # Loading remote code may have marked stock classes as custom in this process; transformers would then copy its own
    # source files into the export.
    classes: tuple[Any, ...] = (type(model), type(model.config))
    marks = [(marked, marked._auto_class) for marked in classes]
    try:
        for marked in classes:
            marked._auto_class = None
        with as_stock_reads_it(model):
            model.save_pretrained(folder)
        if type(model).__module__.startswith("transformers.") and (older := names_in_4(model.config)):
            file = folder / CONFIG_NAME
            write_json(file, read_json_object(file, CONFIG_NAME) | older, sort_keys=True)
    finally:
        for marked, mark in marks:
            marked._auto_class = mark
    for file in code:
        shutil.copy(file, folder)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)


def write_record(folder: Path, facts: Mapping[str, Any], card: Callable[[Mapping[str, Any]], str]) -> None:
    """Write facts with the digests of all files that are there, and the card that `card` makes of them."""
    known = {"facts_version": FACTS_VERSION, "versions": version_facts(), **facts, "files": file_facts(folder)}
    write_json(folder / FACTS_FILE, known)
    (folder / CARD_FILE).write_text(card(known), encoding="utf-8")


def _teacher_section(teacher: Teacher) -> dict[str, Any] | None:
    if teacher is None or isinstance(teacher, Mapping):
        return None if teacher is None else dict(teacher)
    config: PreTrainedConfig
    if isinstance(teacher, str | Path):
        config = load_encoder_config(str(teacher))
        class_name = config.architectures[0]
    else:
        config, class_name = teacher.config, type(teacher).__name__
    return {**teacher_card(config.name_or_path), **planned_facts(config, class_name)}


# The student in a folder or a run


@dataclass(frozen=True)
class StudentIn:
    """The model in a folder.

    Args:
        kind: `export`, of either format; `checkpoint`, of a pruning run; `model`, any other; `nothing` of these.
        folder: of the weights; of a finished run the export inside.
    """

    kind: Literal["export", "checkpoint", "model", "nothing"]
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the run recorded beside the folder that it wrote; empty where there are none."""
        folder = self.folder.resolve()
        path = folder.parent / SETTINGS_FILE
        if not path.is_file():
            return {}
        found = read_json_object(path, f"{SETTINGS_FILE} in folder={str(folder.parent)!r}")
        if self.kind == "checkpoint" or folder.name in (*MODEL_FOLDERS, TRIMMED_FOLDER):
            return found
        # another export may only lie there
        own = section_of(read_facts(folder), "teacher").get("name") if self.kind == "export" else None
        return found if own is not None and own == public_name(str(found.get("teacher"))) else {}

    @property
    def teacher(self) -> str | None:
        """Folder or Hub name of the teacher, from the run's settings or the export's facts, or None."""
        name = self.settings.get("teacher")
        if not isinstance(name, str) and self.kind == "export":
            name = section_of(read_facts(self.folder), "teacher").get("hub_id")
        return name if isinstance(name, str) else None


def student_in(folder: str | Path) -> StudentIn:
    """Find the model in a folder: an export, `OUTPUT_DIR` of a run, `checkpoint-N`, any model, or nothing of these.

    Raises:
        ValueError: it has a link to an export outside.
    """
    folder = Path(folder)
    for name in MODEL_FOLDERS:
        refuse_link_out(folder, name)
    for export in (folder, *(folder / name for name in MODEL_FOLDERS)):
        if (export / FACTS_FILE).is_file():
            return StudentIn("export", export)
    if (folder / STATE_FILE).is_file():
        return StudentIn("checkpoint", folder)
    return StudentIn("model" if (folder / CONFIG_NAME).is_file() else "nothing", folder)


def members_hint(folder: str | Path) -> str:
    """Words for an error about the folder of a family, which is no model itself; empty for other folders."""
    members = sorted(str(facts.parent.parent) for facts in Path(folder).glob(f"*/{STUDENT_FOLDER}/{FACTS_FILE}"))
    return f"; it has several models: name one, such as {members[0]}" if members else ""


def export_model_from(
    source: str | Path,
    output: str | Path,
    *,
    format: str = "standard",
    allow_partial: bool = False,
    teacher: str | None = None,
    overwrite: bool = False,
    member: str | None = None,
) -> Path:
    """Export the student of a finished run, of a checkpoint, or of another export.

    Args:
        source: `OUTPUT_DIR` of a run, `checkpoint-N`, or an export.
        output: folder to write.
        format: `"standard"` or `"compact"`.
        allow_partial: also take a student that has not reached its plan.
        teacher: Hub name or folder that the student was made from, for the card; default: the run's.
        overwrite: replace an earlier export in `output`.
        member: of a nested student's export, by its name; default: the largest.

    Raises:
        ValueError: there is no student in `source`, it is damaged or unfinished, or `output` is not free.
    """
    source = Path(source)
    if not source.is_dir():
        raise ValueError(
            f"folder={str(source)!r} does not exist; expected a finished run, a checkpoint-N or an export"
        )
    place = student_in(source)
    if place.kind == "export":
        how: Any = {"teacher": teacher, "overwrite": overwrite, "member": member}
        return convert_export(place.folder, output, format, **how)
    if member is not None:
        raise ValueError(
            f"member={member!r}: {str(source)!r} is no export; members are in that of the finished run"
            f"{members_hint(source)}"
        )
    checkpoint = check_manifest(source) if place.kind == "checkpoint" else last_checkpoint(source)
    if checkpoint is None:
        raise ValueError(
            f"folder={str(source)!r} holds no {STUDENT_FOLDER}/, no complete checkpoint-N and no {FACTS_FILE}; "
            f"expected a finished run, a checkpoint-N or an export{members_hint(source)}"
        )
    place = StudentIn("checkpoint", checkpoint)
    student, state = checkpoint_student(checkpoint, format=format, allow_partial=allow_partial)
    if not teacher and (teacher := place.teacher) is not None:
        try:
            load_encoder_config(teacher)
        except (OSError, ValueError) as error:
            logger.warning("the card will not tell about teacher=%r, which can't be read: %s", teacher, error)
            teacher = None
    full = plan_in(state, "full", student.config.num_hidden_layers)
    kept = kept_fractions(widths_of(student.config), full)
    return export_student(
        student,
        output,
        format,
        tokenizer=stored_tokenizer(checkpoint),
        teacher=teacher,
        facts={
            "settings": place.settings,
            "training": {
                "method": state["method"],
                "checkpoint": checkpoint.name,
                **{f"kept_fraction_{kind}": fraction for kind, fraction in kept.items()},
            },
            CARD_SECTION: state["card"],
        },
        overwrite=overwrite,
    )


def exported_student(folder: str | Path) -> Path:
    """Find the export in a folder: itself an export, or `OUTPUT_DIR` of a finished run."""
    place = student_in(folder)
    if place.kind == "export":
        return place.folder
    if not place.folder.exists():
        raise ValueError(f"folder={str(folder)!r} does not exist; name an export, or the output_dir of a finished run")
    raise ValueError(
        f"folder={str(folder)!r} holds no export (no {FACTS_FILE}); expected an export or a finished run, or write "
        f"one with homodistil export{members_hint(folder)}"
    )


def dense_copy(model: LayerwiseModel) -> LayerwiseModel:
    """A copy of a student in evaluation mode, on the CPU, without projections."""
    student = type(model)(copy.deepcopy(model.config))
    student.load_state_dict(weights_without_projections(model))
    return student.eval()


def narrowed_copy(pruner: Pruner, *, format: str) -> LayerwiseModel:
    """A copy of a student that has not reached its plan, at the nearest possible widths; else as [`dense_copy`].

    A layer that is leaving stays whole, or is left out if it counts less than half.

    Args:
        pruner: of the run; not changed.
        format: `"compact"`: of its present widths; `"standard"`: of widths that a stock class can hold.
    """
    student, scores = dense_copy(pruner.model), pruner.unit_scores()
    groups = encoder_groups(student)
    if pruner.gates is not None and not pruner.gates.are_removed:
        layers = pruner.gates.nearest()
        remove_layers(student, layers)
        groups = encoder_groups(student)
        scores = renumbered(scores, groups, layers)
    kept = widths_of(student.config)
    plan = kept if format == "compact" else nearest_paddable(kept)
    if plan != kept:
        compact(student, groups, choose_masks(scores, full_masks(groups), plan=plan), plan=plan)
    return student


def check_finished(is_finished: bool, *, kept: WidthPlan, target: WidthPlan, allow_partial: bool) -> None:
    """Refuse a student that has not reached its plan, unless `allow_partial`."""
    if not is_finished and not allow_partial:
        raise ValueError(
            f"the student has not reached its plan yet ({kept.to_json()}, not {target.to_json()}); "
            "resume the run, or set allow_partial to take it as it is"
        )


def checkpoint_student(folder: Path, *, format: str, allow_partial: bool) -> tuple[LayerwiseModel, dict[str, Any]]:
    """The student of a checkpoint that was compared with its manifest, without a trainer.

    `format` decides on possible widths before the plan is reached; see [`narrowed_copy`].

    Returns:
        A student in evaluation mode, without projections, and the state of [`read_state`].

    Raises:
        ValueError: no checkpoint of a run, or unfinished and `allow_partial` is False.
    """
    label = f"checkpoint {str(folder)!r}"
    state = read_state(folder)
    if state["method"] in _OF_VECTORS:  # a checkpoint has no pooling
        raise ValueError(
            f"{label} is of an encoder without a head: resume the run, which exports its student at its end"
        )
    student = load_encoder(str(folder), argument="folder")
    kept, num_layers = widths_of(student.config), student.config.num_hidden_layers
    target, full = (plan_in(state, name, num_layers) for name in ("plan", "full"))
    check_finished(state["is_finished"], kept=kept, target=target, allow_partial=allow_partial)
    # layers that the plan leaves out are still there, behind gates
    fades = len(target.layers) < num_layers and "pruner" in state
    # its widths are possible as they are, so no scores are needed
    if not fades and (format == "compact" or nearest_paddable(kept) == kept or "pruner" not in state):
        return student.eval(), state
    pruner = Pruner(student, target, full=full, **state["pruner"]["settings"])
    pruner.check_state(state["pruner"])
    pruner.load_state(state["pruner"], load_tensors(folder / SCORES_FILE))
    return narrowed_copy(pruner, format=format), state
