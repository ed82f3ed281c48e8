"""A student of an embedding model → a folder for sentence-transformers and servers of vectors, alone or as a pair.

Its form is that before version 5.4, with stock modules alone: newer versions read both forms, older ones misread the
newer one. `verify.py` checks a folder.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..export.export_folder import check_target, facts_held, written_aside
from ..export.facts import (
    BENCHMARKS,
    CARD_FILE,
    FACTS_FILE,
    FACTS_VERSION,
    GUARANTEE,
    RUN_SECTIONS,
    file_facts,
    run_facts,
    section_of,
)
from ..export.hub import teacher_card
from ..export.student_in_folder import student_in
from ..files.folders import write_text
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.strict_json import read_json_object, write_json
from ..files.tensors import WEIGHTS_FILE, load_tensors
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.tokenizers import save_tokenizer
from .card import START, STUDENT, TEACHER, embedding_card
from .model import POOLINGS, Dense, EmbeddingModel, folded, reduced
from .reading import MODULES_FILE, SETTINGS_FILE, TRANSFORMER_FILE, load_embedding_model
from .vectors import Learner

FORMAT, PAIR = "sentence-transformers", "sentence-transformers pair"
PROBE_TEXTS = (
    "The cat sat on the mat.",
    "Stock markets fell on Tuesday after the central bank's announcement.",
    "",
)
"""Texts of a probe; one more is longer than the model reads."""
_LONG_TEXT = "More than it reads. "
_NUM_PROBE_CHANNELS = 64
AXES_FILE = "axes.safetensors"
ROUTER_FILE = "router_config.json"
ROUTES = ("query", "document")
"""Routes of a pair: the student encodes queries, the teacher documents."""
MODULE_TYPE = "sentence_transformers.models.{}"
MODULE_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
TRANSFORMER_KEYS = ("max_seq_length", "do_lower_case")
ACTIVATION_TYPES = {
    "Identity": "torch.nn.modules.linear.Identity",
    **{name: f"torch.nn.modules.activation.{name}" for name in ("Tanh", "ReLU", "GELU", "Sigmoid")},
}


def student_model(student: LayerwiseModel, dense: nn.Linear, teacher: EmbeddingModel) -> EmbeddingModel:
    """Make an embedding model of stock modules of a student.

    Args:
        student: its encoder, compacted, without projections.
        dense: the map into the teacher's space; left out if it is the identity, as of a plain student.
        teacher: source of pooling, layers, tokenizer and prompts.

    Raises:
        ValueError: the stock class can't hold the student's widths.
    """
    # the map stands in front of the teacher's own layers; linear ones behind each other become one
    is_identity = torch.equal(dense.weight, torch.eye(*dense.weight.shape))
    layers = folded([*([] if is_identity else [Dense(dense)]), *teacher.dense])
    return dataclasses.replace(teacher, name="", encoder=to_stock(student).eval(), dense=layers)


def export_embedding_model(
    model: EmbeddingModel,
    folder: str | Path,
    *,
    teacher: EmbeddingModel | Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    has_own_space: bool = False,
    axes: torch.Tensor | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an embedding model of stock modules to a folder for `SentenceTransformer(folder)`.

    Args:
        model: of [`student_model`].
        folder: where to; created with its parents, returned.
        teacher: of the student, or its section of earlier facts, for facts and card.
        facts: further facts of the run.
        has_own_space: whether its vectors are in another space than the teacher's, of whatever length.
        axes: `(N, D)`, where vectors are the teacher's along N axes; written to the folder, as they turn an index of
            the teacher's vectors into a shorter one.
        overwrite: replace an earlier export in the folder.

    Raises:
        ValueError: a folder that is not free.
        OSError: it can't be written.
    """
    target = check_target(folder, overwrite=overwrite)
    teacher_facts = teacher
    if isinstance(teacher, Learner):
        # of given vectors their names and number, and a section of the student's start
        vectors = teacher.target
        start = facts_of(teacher) | teacher_card(teacher.name)
        teacher_facts = {"name": vectors.name, "num_texts": len(vectors.texts), "dimension": vectors.dimension}
        teacher_facts |= {"sha256": vectors.sha256, START: start}
    elif isinstance(teacher, EmbeddingModel):
        teacher_facts = facts_of(teacher) | teacher_card(teacher.name)
    with written_aside(target, overwrite=overwrite) as aside:
        write_model(model, aside)
        if axes is not None:
            save_file({"axes": axes.contiguous()}, aside / AXES_FILE)
        sections = {STUDENT: facts_of(model) | {"has_own_space": has_own_space}, TEACHER: teacher_facts}
        _write_record(aside, target.name, sections, run=run_facts(facts), query=model)
    return target


def _write_record(
    folder: Path,
    name: str,
    sections: dict[str, Any],
    *,
    run: Mapping[str, Any] | None = None,
    **routes: EmbeddingModel,
) -> None:
    """Write facts and card of an export whose other files are there."""
    query = routes["query"]
    # four words a repetition are as many tokens at least
    texts = [*PROBE_TEXTS, _LONG_TEXT * (query.settings.max_seq_length // 4 + 2)]
    channels = torch.linspace(0, query.dimension - 1, min(_NUM_PROBE_CHANNELS, query.dimension)).long()
    vectors = {route: model.encode(texts)[:, channels].tolist() for route, model in routes.items()}
    facts: dict[str, Any] = {
        "facts_version": FACTS_VERSION,
        "format": FORMAT if len(routes) == 1 else PAIR,
        "versions": version_facts(),
        **sections,
        "settings_of_vectors": {"max_seq_length": query.settings.max_seq_length} | shared_settings(query),
        "probe": {"texts": texts, "channels": channels.tolist(), "vectors": vectors},
        **(run or {}),
    }
    # digests of all files that are there, then facts with them, then the card made of the facts
    facts["files"] = file_facts(folder)
    write_json(folder / FACTS_FILE, facts)
    (folder / CARD_FILE).write_text(embedding_card(name, facts), encoding="utf-8")


def write_model(model: EmbeddingModel, folder: Path) -> None:
    """Write all files of sentence-transformers to an empty folder."""
    modules = enumerate(write_modules(model, folder).items())
    write_json(
        folder / MODULES_FILE,
        [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in modules],
    )
    write_json(folder / SETTINGS_FILE, shared_file(model))


def publish_scores(folder: str | Path, scores: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write results into an export's facts and card; folders that are no export stay as they are.

    Args:
        folder: perhaps an export.
        scores: `models`, `agreement` and `scores`, see [`embedding_table`], and `guarantee`. Earlier ones stay if
            they were measured beside the same teacher.
        facts: content of [`read_embedding_facts`] when the model was loaded.
    """
    if facts.get("format") != FORMAT:
        return
    with facts_held(folder, facts) as present:
        measured = present.get(BENCHMARKS, {})
        # scores beside another teacher are none to compare with
        if measured.get("models", {}).get(TEACHER) != scores["models"].get(TEACHER):
            measured = {}
        # tasks of this evaluation join those of earlier ones; everything else is replaced
        merged = {name: measured.get(name, {}) | scores.get(name, {}) for name in ("scores", GUARANTEE)}
        present[BENCHMARKS] = measured | scores | {name: tasks for name, tasks in merged.items() if tasks}
        write_json(Path(folder) / FACTS_FILE, present)
        write_text(Path(folder) / CARD_FILE, embedding_card(Path(folder).resolve().name, present))


def read_embedding_facts(folder: str | Path) -> dict[str, Any]:
    """Content of `facts.json`; empty for a folder without it, such as a teacher's."""
    file = Path(folder) / FACTS_FILE
    return read_json_object(file, FACTS_FILE) if file.is_file() else {}


def has_own_space(facts: Mapping[str, Any]) -> bool:
    """Whether an export's vectors are in another space than its teacher's, of whatever length."""
    return bool(section_of(facts, STUDENT).get("has_own_space"))


def shared_settings(model: EmbeddingModel) -> dict[str, Any]:
    """Settings that sentence-transformers reads beside its modules, as it names them."""
    settings = model.settings
    return {
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
    }


def facts_of(model: EmbeddingModel) -> dict[str, Any]:
    """A model's section of facts: name, costs, dimension, length and digest."""
    # a name that stays as it is, and is no folder here, is one of the Hub
    name, length = public_name(model.name), model.settings.max_seq_length
    named = {"name": name, "is_on_hub": name == model.name != "" and not Path(name).exists()}
    read = {"dimension": model.dimension, "max_seq_length": length, "sha256": model.sha256}
    return named | model_facts(model.encoder) | read


def write_modules(model: EmbeddingModel, folder: Path, *, route: str = "") -> dict[str, str]:
    """Write the modules of a model below a folder: encoder with tokenizer and length, pooling, layers.

    Returns:
        `dict`: path below the folder → type, in order. The encoder of a model alone is in the folder itself, those of
        a `route` have it in their names.
    """
    kinds = ["Transformer", "Pooling", *["Dense"] * len(model.dense), *["Normalize"] * model.settings.normalizes]
    prefix = f"{route}_" if route else ""
    paths = [f"{prefix}{index}_{kind}" for index, kind in enumerate(kinds)]
    if not route:
        paths[0] = ""
    folders = [folder / path for path in paths]
    for one in folders:
        one.mkdir(exist_ok=True)
    encoder: Any = model.encoder
    encoder.save_pretrained(folders[0])
    save_tokenizer(model.tokenizer, folders[0])
    read = {"max_seq_length": model.settings.max_seq_length, "do_lower_case": model.settings.lowers}
    write_json(folders[0] / TRANSFORMER_FILE, read)
    pooling = {switch: name == model.settings.pooling for name, switch in POOLINGS.items()}
    write_json(folders[1] / "config.json", {"word_embedding_dimension": model.encoder.config.hidden_size, **pooling})
    # A folder is left for `Normalize`, which has no files.
    for layer, one in zip(model.dense, folders[2:], strict=False):
        linear, activation = layer.linear, ACTIVATION_TYPES[layer.activation]
        sizes = {"in_features": linear.in_features, "out_features": linear.out_features}
        values = sizes | {"bias": linear.bias is not None, "activation_function": activation}
        write_json(one / "config.json", values)
        tensors = linear.state_dict().items()
        save_file({f"linear.{name}": tensor.cpu().contiguous() for name, tensor in tensors}, one / WEIGHTS_FILE)
    return {path: MODULE_TYPE.format(kind) for path, kind in zip(paths, kinds, strict=True)}


def shared_file(model: EmbeddingModel) -> dict[str, Any]:
    """Content of `config_sentence_transformers.json`."""
    shared = shared_settings(model) | {"truncate_dim": model.settings.truncate_dim and model.dimension}
    # one that is not set is the library's own
    return {"__version__": {}} | {name: value for name, value in shared.items() if value is not None}


def export_embedding_from(
    folder: Path, output: str | Path, *, format: str = "standard", teacher: str | None = None, overwrite: bool = False
) -> Path:
    """Write an export again: `standard`, or as `pair` beside its teacher, or beside another student of it.

    Raises:
        ValueError: another format, a pair without a teacher, or a teacher of another space.
    """
    if format not in ("standard", "pair"):
        raise ValueError(f"format={format!r}: an embedding model is written as one of standard, pair; use standard")
    if format == "pair" and teacher is None:
        raise ValueError("format='pair' needs the teacher, which no run has recorded beside this folder; name it")
    facts, axes = read_embedding_facts(folder), axes_in(folder / AXES_FILE)
    is_apart = has_own_space(facts)
    if format == "pair" and is_apart:
        raise ValueError("format='pair' needs one space, and this student has one of its own (output='student')")
    student = load_embedding_model(folder, argument="folder")
    if format == "standard":
        return export_embedding_model(
            student,
            output,
            teacher=facts.get(TEACHER),
            facts={name: facts[name] for name in RUN_SECTIONS if name in facts},
            has_own_space=is_apart,
            axes=axes,
            overwrite=overwrite,
        )
    beside = student_in(str(teacher)).folder if Path(str(teacher)).is_dir() else str(teacher)
    document = load_embedding_model(beside)
    # beside another student of the same teacher, or beside the teacher, whose digest the facts may hold
    if _space_of(facts) is None or _space_of(facts) != _space_of(read_embedding_facts(beside)):
        if section_of(facts, TEACHER).get("sha256") not in (None, document.sha256):
            raise ValueError(
                f"teacher={short_repr(str(teacher))} is another model than {folder}'s teacher, so its vectors are of "
                "another space; name the folder or repository that the run began with, or another student of it"
            )
        # along axes the student's vectors are shorter, so the teacher's are made as short
        document = document if axes is None else reduced(document, axes)
    return export_pair(student, document, output, overwrite=overwrite)


def _space_of(facts: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Digests of an export's teacher and axes, which exports of one space share; None for a space of its own."""
    digest = section_of(facts, TEACHER).get("sha256")
    is_apart = digest is None or has_own_space(facts)
    return None if is_apart else (digest, section_of(facts, "files").get(AXES_FILE))


def axes_in(file: Path) -> torch.Tensor | None:
    """Read the axes that an export's vectors are along; None where it has none.

    Raises:
        ValueError: a file without them.
    """
    if not file.is_file():
        return None
    axes = load_tensors(file).get("axes")
    if axes is None or axes.dim() != 2:
        raise ValueError(f"file={str(file)!r} has no matrix axes; copy the folder again")
    return axes


def export_pair(
    query: EmbeddingModel, document: EmbeddingModel, folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Write two models of one space as one model: the first encodes queries, the second documents.

    `SentenceTransformer(folder)`, version 5 or later, has them as routes of a Router: `encode_query(…)` and
    `encode_document(…)`; `encode(…)` takes the query's.

    Raises:
        ValueError: vectors of different lengths, or a folder that is not free.
        OSError: it can't be written.
    """
    if query.dimension != document.dimension:
        raise ValueError(
            f"query has vectors of dimension={query.dimension}, document {document.dimension}; a pair needs one space"
        )
    target = check_target(folder, overwrite=overwrite)
    with written_aside(target, overwrite=overwrite) as aside:
        written = {
            route: write_modules(model, aside, route=route)
            for route, model in zip(ROUTES, (query, document), strict=True)
        }
        types = written[ROUTES[0]] | written[ROUTES[1]]
        routes = {route: list(modules) for route, modules in written.items()}
        parameters = {"default_route": ROUTES[0], "allow_empty_key": True}
        write_json(aside / ROUTER_FILE, {"types": types, "structure": routes, "parameters": parameters})
        write_json(aside / MODULES_FILE, [{"idx": 0, "name": "0", "path": "", "type": MODULE_TYPE.format("Router")}])
        write_json(aside / SETTINGS_FILE, shared_file(query))
        sections = {STUDENT: facts_of(query), TEACHER: facts_of(document)}
        _write_record(aside, target.name, sections, query=query, document=document)
    return target
