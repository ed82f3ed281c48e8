"""A student for queries and its teacher for documents in one folder, and exports made from a run of one."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ...export.export_folder import check_target, written_aside
from ...export.facts import CARD_FILE, FACTS_FILE, FACTS_VERSION, RUN_SECTIONS, file_facts
from ...files.messages import short_repr
from ...files.provenance import version_facts
from ...files.strict_json import write_json
from .card import STUDENT, TEACHER, embedding_card
from .folder import (
    AXES_FILE,
    MODULE_TYPE,
    PAIR,
    ROUTER_FILE,
    export_embedding_model,
    facts_of,
    has_own_space,
    module_kinds,
    probe_facts,
    read_embedding_facts,
    shared_file,
    shared_settings,
    write_modules,
)
from .model import MODULES_FILE, SETTINGS_FILE, EmbeddingModel, load_embedding_model, reduced
from .verify import ROUTES

EMBEDDING_FORMATS = ("standard", "pair")


def export_embedding_from(
    folder: Path, output: str | Path, *, format: str, teacher: str | None, overwrite: bool = False
) -> Path:
    """Write an export of an embedding model again, alone or beside its teacher.

    Args:
        folder: the export.
        output: folder to write.
        format: `standard`: alone. `pair`: beside its teacher, see [`export_pair`].
        teacher: folder or Hub name.
        overwrite: replace an earlier export in `output`.

    Raises:
        ValueError: another format, a pair without a teacher, or a teacher of another space.
    """
    if format not in EMBEDDING_FORMATS:
        raise ValueError(
            f"format={format!r}: an embedding model is written as one of {', '.join(EMBEDDING_FORMATS)}; nearest "
            "valid: standard"
        )
    if format == "pair" and teacher is None:
        raise ValueError("format='pair' needs the teacher, which no run has recorded beside this folder; name it")
    facts = read_embedding_facts(folder)
    is_apart = has_own_space(facts)
    if format == "pair" and is_apart:
        raise ValueError("format='pair' needs one space, and this student has one of its own (output='student')")
    student = load_embedding_model(folder, argument="folder")
    axes = load_file(folder / AXES_FILE)["axes"] if (folder / AXES_FILE).is_file() else None
    if format == "pair":
        whole = load_embedding_model(str(teacher))
        recorded = (facts.get(TEACHER) or {}).get("sha256")
        if recorded not in (None, whole.sha256):
            raise ValueError(
                f"teacher={short_repr(str(teacher))} is another model than {folder}'s teacher, so its vectors are of "
                "another space; name the folder or repository that the run began with"
            )
        return export_pair(student, whole if axes is None else reduced(whole, axes), output, overwrite=overwrite)
    kept: dict[str, Any] = {name: facts[name] for name in RUN_SECTIONS if name in facts}
    settings: dict[str, Any] = {"axes": axes, "has_own_space": is_apart, "overwrite": overwrite}
    return export_embedding_model(student, output, teacher=facts.get(TEACHER), facts=kept, **settings)


def export_pair(
    query: EmbeddingModel, document: EmbeddingModel, folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Write two models of one space as one model: the first encodes queries, the second documents.

    `SentenceTransformer(folder)`, version 5 or later, has them as routes of a Router: `encode_query(…)` and
    `encode_document(…)`; `encode(…)` takes the query's.

    Args:
        query: the student.
        document: the teacher, with vectors of the same length.
        folder: where to; created with its parents.
        overwrite: replace an earlier export in the folder.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: vectors of different lengths, or a folder that is not free.
        OSError: it can't be written.
    """
    if query.dimension != document.dimension:
        raise ValueError(
            f"query has vectors of dimension={query.dimension}, document {document.dimension}; a pair needs one space"
        )
    target = check_target(folder, overwrite=overwrite)
    types: dict[str, str] = {}
    routes: dict[str, list[str]] = {}
    with written_aside(target, overwrite=overwrite) as aside:
        for route, model in zip(ROUTES, (query, document), strict=True):
            names = [f"{route}_{index}_{kind}" for index, kind in enumerate(module_kinds(model))]
            write_modules(model, [aside / name for name in names])
            types |= {name: MODULE_TYPE.format(kind) for name, kind in zip(names, module_kinds(model), strict=True)}
            routes[route] = names
        parameters = {"default_route": ROUTES[0], "allow_empty_key": True}
        write_json(aside / ROUTER_FILE, {"types": types, "structure": routes, "parameters": parameters})
        write_json(aside / MODULES_FILE, [{"idx": 0, "name": "0", "path": "", "type": MODULE_TYPE.format("Router")}])
        write_json(aside / SETTINGS_FILE, shared_file(query))
        known = {
            "facts_version": FACTS_VERSION,
            "format": PAIR,
            "versions": version_facts(),
            STUDENT: facts_of(query),
            TEACHER: facts_of(document),
            "settings_of_vectors": shared_settings(query),
            "probe": probe_facts(query=query, document=document),
        }
        write_json(aside / FACTS_FILE, known | {"files": file_facts(aside)})
        (aside / CARD_FILE).write_text(embedding_card(target.name, known), encoding="utf-8")
    return target
