"""Export folders: a student with tokenizer, facts and card, written whole and read back."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..files.checkpoints import STATE_FILE, last_checkpoint
from ..files.folders import check_replaceable, check_writable, written_whole
from ..files.inside import files_inside, links_out
from ..files.locks import claimed, lock_beside
from ..files.messages import join_some, nearest_valid, short_repr
from ..files.provenance import version_facts
from ..files.strict_json import read_json_object, write_json
from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import as_stock_reads_it, to_stock, to_student
from ..models.cost import cost_fractions, model_facts
from ..models.loading import load_encoder, load_encoder_config
from ..models.tokenizers import save_tokenizer, stored_tokenizer
from ..models.widths import WidthPlan, widths_of
from ..pruning.compaction import remove_padding
from .facts import (
    CARD_FILE,
    FACTS_FILE,
    FACTS_VERSION,
    LATENCY,
    RUN_SECTIONS,
    file_facts,
    forms_facts,
    probe_facts,
    read_export_facts,
    read_facts,
    run_facts,
    teacher_facts,
    weights_of,
)
from .hub import teacher_card

FORMATS = ("standard", "compact")
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
        "facts_version": FACTS_VERSION,
        "format": format,
        "requires": {"transformers": "≥ 5.14"} if format == "compact" else {},
        "versions": version_facts(),
        "student": costs,
        "forms": forms_facts(student),
        "teacher": teacher_section,
        "cost_fractions": cost_fractions(costs, teacher_section),
        **run,
        "probe": probe_facts(student),
    }
    with written_aside(target, overwrite=overwrite) as aside:
        with plain_classes(type(exported), type(exported.config)), as_stock_reads_it(exported):
            exported.save_pretrained(aside)
        if format == "compact":
            for file in architecture_of(student.config).modeling_files:
                shutil.copy(file, aside)
        if tokenizer is not None:
            save_tokenizer(tokenizer, aside)
        # digests when all files but facts and card are there
        contents["files"] = file_facts(aside)
        write_json(aside / FACTS_FILE, contents)
        (aside / CARD_FILE).write_text(render_card(contents), encoding="utf-8")
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


def convert_export(
    source: str | Path, folder: str | Path, format: str, *, teacher: Teacher = None, overwrite: bool = False
) -> Path:
    """Write an export again, in another format or another place, see [`export_student`].

    By default the teacher is that of the source's facts.
    """
    source = Path(source)
    student, earlier = load_export(source), read_export_facts(source)
    # Times are of the weights that were timed; one form of a student may have zeros that the other lacks.
    kept = [name for name in RUN_SECTIONS if name in earlier]
    if earlier["forms"] and earlier["format"] != format and LATENCY in kept:
        kept.remove(LATENCY)
    return export_student(
        student,
        folder,
        format,
        tokenizer=stored_tokenizer(source),
        teacher=teacher if teacher is not None else earlier.get("teacher"),
        facts={name: earlier[name] for name in kept},
        overwrite=overwrite,
    )


def check_output(
    folder: str | Path, *, overwrite: bool = False, record: str = FACTS_FILE, argument: str = "folder"
) -> Path:
    """Check, before a long run, that its export can be written: the folder is free, and can be replaced as a whole.

    At the end of a run [`written_aside`] finds out, and says what remains.

    `record` lists all other files of the folder; `argument` is the user's name for it.

    Returns:
        The folder's absolute path.

    Raises:
        ValueError: it is not free, or can't be written.
    """
    label = f"{argument}={str(folder)!r}"
    check_replaceable(folder, label)
    target = check_target(folder, overwrite=overwrite, record=record)
    check_writable(target.parent, label)  # another one where the folder is a link
    return target


def check_target(folder: str | Path, *, overwrite: bool = False, record: str = FACTS_FILE) -> Path:
    """Check that a folder is free for an export.

    `record` is the file that lists all others of the folder.

    Returns:
        The folder's absolute path.

    Raises:
        ValueError: it is a file, or holds files that an export would delete.
    """
    target = Path(folder).resolve()
    if not str(folder).strip() or (target.exists() and not target.is_dir()):
        raise ValueError(f"folder={str(folder)!r} is {'a file' if str(folder) else 'empty'}; choose another name")
    for file in (parent / name for parent in target.parents for name in (FACTS_FILE, STATE_FILE, record)):
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
    if not (target / record).is_file():
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
def written_aside(target: Path, *, overwrite: bool, record: str = FACTS_FILE) -> Iterator[Path]:
    """An empty folder that takes an export's place when the block ends; see [`written_whole`].

    The target is of [`check_target`], whose other arguments these are: it is checked again, as time has passed.
    """

    def what_remains() -> str:
        earlier = ", the earlier one there is as it was" if target.is_dir() else ""
        checkpoint = last_checkpoint(target.parent)
        source = f"; the last good checkpoint, {checkpoint}, can be exported too" if checkpoint else ""
        remedy = "Make room or choose another folder, then export again"
        return f"no export was written to {target}{earlier}. {remedy}{source}"

    with written_whole(target, what_remains) as aside:
        check_target(target, overwrite=overwrite, record=record)
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


@contextmanager
def plain_classes(*classes: Any) -> Iterator[None]:
    """Within the block, transformers saves models and configs of these classes as its own."""
    # Loading remote code may have marked stock classes as custom in this process; transformers would then copy its own
    # source files into the export.
    marks = [(marked, marked._auto_class) for marked in classes]
    try:
        for marked, _ in marks:
            marked._auto_class = None
        yield
    finally:
        for marked, mark in marks:
            marked._auto_class = mark


def _teacher_section(teacher: Teacher) -> dict[str, Any] | None:
    if teacher is None or isinstance(teacher, Mapping):
        return None if teacher is None else dict(teacher)
    config: PreTrainedConfig
    if isinstance(teacher, str | Path):
        config = load_encoder_config(str(teacher))
        class_name = config.architectures[0]
    else:
        config, class_name = teacher.config, type(teacher).__name__
    return teacher_facts(config, class_name, **teacher_card(config.name_or_path))
