"""A student of an embedding model → a folder for sentence-transformers and servers of vectors, alone or as a pair.

Its form is that before version 5.4, with stock modules alone: newer versions read both forms, older ones misread the
newer one. [`verify_embedding`] checks a folder.
"""

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..export.export_folder import check_target, facts_held, save_model, student_in, write_record, written_aside
from ..export.facts import (
    BENCHMARKS,
    CARD_FILE,
    FACTS_FILE,
    GUARANTEE,
    MULTI_VECTOR,
    PACKED_VECTORS,
    PAIR,
    RUN_SECTIONS,
    SIZES,
    SPARSE,
    VECTORS,
    run_facts,
    section_of,
)
from ..export.hub import teacher_card
from ..export.nested import NestedMember, cut_to, find_member, of_member, read_nested
from ..export.verify import VerifyReport, code_problems, difference_problems, file_problems, run_fresh
from ..files.checkpoints import file_digest
from ..files.folders import write_text
from ..files.inside import stays_inside
from ..files.messages import first_line, short_repr
from ..files.provenance import public_name
from ..files.strict_json import read_json_object, write_json
from ..files.tensors import WEIGHTS_FILE, load_tensors
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.equality import relative_difference
from .card import LOADERS, START, STUDENT, TEACHER, embedding_card
from .model import (
    ACTIVATIONS,
    MODULES_FILE,
    POOLINGS,
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    Dense,
    EmbeddingModel,
    encoder_config,
    folded,
    load_embedding_model,
    read_modules,
    reduced,
)

PROBE_TEXTS = (
    "The cat sat on the mat.",
    "Stock markets fell on Tuesday after the central bank's announcement.",
    "",
)
"""Texts of a probe; one more is longer than the model reads."""
AUTO_CLASS = "AutoModel"
"""Of transformers, by which an encoder of bits is loaded."""
_LONG_TEXT = "More than it reads. "
_NUM_PROBE_CHANNELS = 64
_NUM_TOKEN_CHANNELS = 8  # every token has them
AXES_FILE = "axes.safetensors"
ROUTER_FILE = "router_config.json"
ROUTES = ("query", "document")
"""Routes of a pair: the student encodes queries, the teacher documents."""
MODULE_TYPE = "sentence_transformers.models.{}"
SPARSE_TYPE = "sentence_transformers.sparse_encoder.models.{}"
MASK_TYPE = "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"
_SPARSE_KINDS = {"MLMTransformer": "Transformer", "SpladePooling": "Pooling", "SparseStaticEmbedding": "Table"}
MODULE_KINDS = {MODULE_TYPE.format(kind): kind for kind in ("Transformer", "Pooling", "Dense", "Normalize")}
MODULE_KINDS |= {SPARSE_TYPE.format(name): kind for name, kind in _SPARSE_KINDS.items()}
MODULE_KINDS[MASK_TYPE] = "Mask"
"""Type of a module of an export → what it is checked as."""
TABLE_KEYS, QUERY_KEYS = {"frozen"}, ("query_length", "document_length", "query_expansion")
_TRANSFORMER_KEYS = ("max_seq_length", "do_lower_case", *QUERY_KEYS)
ACTIVATION_TYPES = {name: f"{kind.__module__}.{name}" for name, kind in ACTIVATIONS.items()}

_LEAST_VERSION = 6
"""Of sentence-transformers, as in the extra `embeddings`."""
VECTOR_TOLERANCE = 1e-4
"""Largest difference of a channel, as a share of the largest channel or of 1."""
PACKED_TOLERANCE = 1e-2
"""The same of an encoder of bits: on another processor an activation may get another code."""

_FRESH_PROCESS = """
import json, sys
import torch
from safetensors.torch import save_file
import sentence_transformers
folder, loader, routes, remote_code, outputs = sys.argv[1:]
texts = json.load(open(folder + "/facts.json", encoding="utf-8"))["probe"]["texts"]
model = getattr(sentence_transformers, loader)(folder, device="cpu", trust_remote_code=remote_code == "1")
found = {}
for route in routes.split(","):
    if loader == "MultiVectorEncoder":
        vectors = torch.cat(getattr(model, "encode_" + route)(texts))
    else:
        vectors = model.encode(texts, convert_to_tensor=True, **({} if routes == "query" else {"task": route}))
    found[route] = (vectors.to_dense() if vectors.is_sparse else vectors).float().contiguous()
save_file(found, outputs)
settings = {"max_seq_length": model.max_seq_length, "prompts": dict(model.prompts),
    "default_prompt_name": model.default_prompt_name, "similarity_fn_name": str(model.similarity_fn_name)}
print(json.dumps(settings))
"""


def student_model(student: LayerwiseModel, dense: nn.Linear, teacher: EmbeddingModel) -> EmbeddingModel:
    """Make an embedding model of stock modules of a student.

    Args:
        student: its encoder, compacted, without projections.
        dense: the map into the teacher's space; left out if it is the identity, as of a plain student.
        teacher: source of pooling, layers, tokenizer and prompts.

    Raises:
        ValueError: the stock class can't hold the student's widths.
    """
    layers = layers_behind(dense, teacher)
    return dataclasses.replace(teacher, name="", encoder=to_stock(student).eval(), dense=layers, target=None)


def layers_behind(dense: nn.Linear, teacher: EmbeddingModel) -> tuple[Dense, ...]:
    """The layers behind a student's pooling; arguments as [`student_model`]."""
    # the map stands in front of the teacher's own layers; linear ones behind each other become one
    is_identity = torch.equal(dense.weight, torch.eye(*dense.weight.shape))
    return folded([*([] if is_identity else [Dense(dense)]), *teacher.dense])


def export_embedding_model(
    model: EmbeddingModel,
    folder: str | Path,
    *,
    teacher: EmbeddingModel | Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    has_own_space: bool = False,
    axes: torch.Tensor | None = None,
    overwrite: bool = False,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write an embedding model of stock modules, or with an encoder of bits, to a folder for `SentenceTransformer`.

    Args:
        model: of [`student_model`]; or with a packed encoder.
        folder: where to; created with its parents, returned.
        teacher: of the student, or its section of earlier facts, for facts and card.
        facts: further facts of the run.
        has_own_space: whether its vectors are in another space than the teacher's, of whatever length.
        axes: `(N, D)`, where vectors are the teacher's along N axes; written to the folder, as they turn an index of
            the teacher's vectors into a shorter one.
        overwrite: replace an earlier export in the folder.
        also: writes further files into the folder, which its facts list, too.

    Raises:
        ValueError: a folder that is not free.
        OSError: it can't be written.
    """
    target = check_target(folder, overwrite=overwrite)
    teacher_facts: Any = teacher
    if isinstance(teacher, EmbeddingModel):
        teacher_facts, vectors = facts_of(teacher) | teacher_card(teacher.name), teacher.target
        if vectors is not None:  # their names and number, and a section of what the student started from
            counts = {"num_texts": len(vectors.texts), "dimension": vectors.dimension}
            teacher_facts = {"name": vectors.name, **counts, "sha256": vectors.sha256, START: teacher_facts}
    with written_aside(target, overwrite=overwrite) as aside:
        write_model(model, aside)
        if axes is not None:
            save_file({"axes": axes.contiguous()}, aside / AXES_FILE)
        if also is not None:
            also(aside)
        sections = {STUDENT: facts_of(model) | {"has_own_space": has_own_space}, TEACHER: teacher_facts}
        format = PACKED_VECTORS if is_packed(model) else VECTORS
        write_vectors(aside, target.name, sections, format, run=run_facts(facts), query=model)
    return target


def export_apart(
    model: EmbeddingModel,
    folder: str | Path,
    write: Callable[[Any, Path], None],
    format: str,
    *,
    teacher: EmbeddingModel,
    facts: Mapping[str, Any],
    **routes: EmbeddingModel,
) -> Path:
    """Write a model of another class of sentence-transformers, by `write`, with the vectors by each of its routes."""
    target = check_target(folder, overwrite=True)
    with written_aside(target, overwrite=True) as aside:
        write(model, aside)
        sections = {STUDENT: facts_of(model), TEACHER: facts_of(teacher) | teacher_card(teacher.name)}
        write_vectors(aside, target.name, sections, format, run=run_facts(facts), **routes)
    return target


def write_vectors(
    folder: Path,
    name: str,
    sections: dict[str, Any],
    format: str,
    *,
    run: Mapping[str, Any] | None = None,
    **routes: EmbeddingModel,
) -> None:
    """Write facts and card of an export whose other files are there, with the vectors of some texts by each route."""
    query = next(iter(routes.values()))
    # four words a repetition are as many tokens at least
    texts = [*PROBE_TEXTS, _LONG_TEXT * (query.settings.max_seq_length // 4 + 2)]
    # a row a vector; a text has one, or one a token
    whole = {
        route: torch.cat([one.view(-1, query.dimension) for one in model.encode_each(texts)])
        for route, model in routes.items()
    }
    num_channels = _NUM_TOKEN_CHANNELS if format == MULTI_VECTOR else _NUM_PROBE_CHANNELS
    channels = torch.linspace(0, query.dimension - 1, min(num_channels, query.dimension)).long()
    if format == SPARSE:  # most words are 0 in all texts
        channels = next(iter(whole.values())).amax(0).topk(len(channels)).indices.sort().values
    vectors = {route: of_texts[:, channels].tolist() for route, of_texts in whole.items()}
    facts: dict[str, Any] = {
        "format": format,
        **sections,
        "settings_of_vectors": {"max_seq_length": query.settings.max_seq_length} | shared_settings(query),
        "probe": {"texts": texts, "channels": channels.tolist(), "vectors": vectors},
        **(run or {}),
    }
    write_record(folder, facts, partial(embedding_card, name))


def write_model(model: EmbeddingModel, folder: Path) -> None:
    """Write all files of sentence-transformers to an empty folder."""
    write_index(write_modules(model, folder), folder)
    write_json(folder / SETTINGS_FILE, shared_file(model))


def write_index(modules: Mapping[str, str], folder: Path) -> None:
    """Write `modules.json`: path below the folder → type, in order."""
    rows = enumerate(modules.items())
    write_json(
        folder / MODULES_FILE, [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in rows]
    )


def publish_scores(folder: str | Path, scores: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write results into an export's facts and card; folders that are no export stay as they are.

    Args:
        folder: perhaps an export.
        scores: `models`, `agreement` and `scores`, see [`embedding_table`], and `guarantee`. Earlier ones stay if
            they were measured beside the same teacher.
        facts: content of [`read_embedding_facts`] when the model was loaded.
    """
    if facts.get("format") not in (VECTORS, PACKED_VECTORS):
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
    read = {"dimension": model.dimension, "max_seq_length": model.settings.max_seq_length, "sha256": model.sha256}
    bits = {"activation_bits": model.encoder.config.activation_bits} if is_packed(model) else {}
    return {"name": public_name(model.name), **model_facts(model.stock_encoder), **read, **bits}


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
    write_encoder(model, folders[0])
    pooling = {switch: name == model.settings.pooling for name, switch in POOLINGS.items()}
    write_json(folders[1] / "config.json", {"word_embedding_dimension": model.encoder.config.hidden_size, **pooling})
    # A folder is left for `Normalize`, which has no files.
    for layer, one in zip(model.dense, folders[2:], strict=False):
        write_dense(layer, one)
    return {path: MODULE_TYPE.format(kind) for path, kind in zip(paths, kinds, strict=True)}


def is_packed(model: EmbeddingModel) -> bool:
    """Whether an embedding model has an encoder of packed bits."""
    return bool(getattr(model.encoder.config, "packed", False))


def packed_code() -> dict[str, Any]:
    """Modelling files beside an encoder of bits, and what its configuration names of them."""
    from ..models.packed import CODE, auto_map_of  # for such an encoder alone

    return {"files": CODE, "auto_map": auto_map_of(AUTO_CLASS)}


def write_encoder(model: EmbeddingModel, folder: Path, **read: Any) -> None:
    """Write the first module: encoder, tokenizer and how texts are `read`."""
    encoder, code = model.stock_encoder, packed_code() if is_packed(model) else {}
    if code:
        encoder.config.auto_map = code["auto_map"]
    save_model(encoder, folder, model.tokenizer, code=code.get("files", ()))
    settings = {"max_seq_length": model.settings.max_seq_length, "do_lower_case": model.settings.lowers}
    write_json(folder / TRANSFORMER_FILE, settings | read)


def write_dense(layer: Dense, folder: Path, **values: Any) -> None:
    """Write a layer, and further `values` of its settings."""
    linear, activation = layer.linear, ACTIVATION_TYPES[layer.activation]
    sizes = {"in_features": linear.in_features, "out_features": linear.out_features}
    values = sizes | {"bias": linear.bias is not None, "activation_function": activation} | values
    write_json(folder / "config.json", values)
    tensors = linear.state_dict().items()
    save_file({f"linear.{name}": tensor.cpu().contiguous() for name, tensor in tensors}, folder / WEIGHTS_FILE)


def shared_file(model: EmbeddingModel) -> dict[str, Any]:
    """Content of `config_sentence_transformers.json`."""
    shared = shared_settings(model) | {"truncate_dim": model.settings.truncate_dim and model.dimension}
    # one that is not set is the library's own
    return {"__version__": {}} | {name: value for name, value in shared.items() if value is not None}


def export_embedding_from(
    folder: Path,
    output: str | Path,
    *,
    format: str = "standard",
    teacher: str | None = None,
    teacher_of_run: str | None = None,
    overwrite: bool = False,
    member: str | None = None,
) -> Path:
    """Write an export again: `standard`, or as `pair` beside its teacher, or beside another student of it.

    Of a nested student one `member`, by default the largest. A `teacher` that is named is the one of the card, too.

    Raises:
        ValueError: another format, a pair without a teacher, or a teacher of another space.
    """
    if format not in ("standard", "pair"):
        raise ValueError(f"format={format!r}: an embedding model is written as one of standard, pair; use standard")
    if format == "pair" and teacher is None and teacher_of_run is None:
        raise ValueError("format='pair' needs the teacher, which no run has recorded beside this folder; name it")
    facts, axes = read_embedding_facts(folder), axes_in(folder / AXES_FILE)
    is_apart = has_own_space(facts)
    if format == "pair" and facts.get("format") == PACKED_VECTORS:
        raise ValueError(
            f"format='pair' with folder={str(folder)!r}: an encoder of bits brings its own code, which no pair has; "
            "load both models apart, and let this one encode queries"
        )
    if format == "pair" and is_apart:
        raise ValueError("format='pair' needs one space, and this student has one of its own (output='student')")
    run = {name: facts[name] for name in RUN_SECTIONS if name in facts}
    if member is None:
        student = load_embedding_model(folder, argument="folder")
        run.pop(SIZES, None)  # the largest alone is written
    else:
        student, found = load_nested_embedding(folder, member)
        run = of_member(run, found)
    how: dict[str, Any] = {"facts": run, "has_own_space": is_apart, "axes": axes, "overwrite": overwrite}
    write = partial(export_embedding_model, student, output, **how)
    if format == "standard" and teacher is None:
        return write(teacher=facts.get(TEACHER))
    teacher = teacher or teacher_of_run
    beside = student_in(str(teacher)).folder if Path(str(teacher)).is_dir() else str(teacher)
    document = load_embedding_model(beside)
    # beside another student of the same teacher, or beside the teacher, whose digest the facts may hold
    if _space_of(facts) is None or _space_of(facts) != _space_of(read_embedding_facts(beside)):
        if section_of(facts, TEACHER).get("sha256") not in (None, document.sha256):
            raise ValueError(
                f"teacher={short_repr(str(teacher))} is another model than {folder}'s teacher, so its vectors are of "
                "another space; name the folder or repository that the run began with, or another student of it"
            )
        if format == "standard":
            return write(teacher=document)
        # along axes the student's vectors are shorter, so the teacher's are made as short
        document = document if axes is None else reduced(document, axes)
    elif format == "standard":
        raise ValueError(
            f"teacher={short_repr(str(teacher))} is another student of {folder}'s teacher; name the teacher itself"
        )
    return export_pair(student, document, output, overwrite=overwrite)


def load_nested_embedding(folder: Path, member: Any) -> tuple[EmbeddingModel, NestedMember]:
    """Load one member of a nested student, or a size between two, of stock modules; and what the folder says of it."""
    largest = load_embedding_model(folder, argument="folder")
    student, members, whole_macs = read_nested(folder, largest.encoder)
    dense, found = largest.dense, find_member(student, members, member, whole_macs=whole_macs)
    if found.tensors:
        first = nn.Linear(found.plan.hidden_size, dense[0].linear.out_features, bias="bias" in found.tensors)
        first.load_state_dict(found.tensors)
        dense = (dataclasses.replace(dense[0], linear=first.requires_grad_(False)), *dense[1:])
    encoder = to_stock(cut_to(student, found.plan)).eval()
    return dataclasses.replace(largest, encoder=encoder, dense=dense), found


def _space_of(facts: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Digests of an export's teacher and axes, which exports of one space share; None for a space of its own."""
    digest = section_of(facts, TEACHER).get("sha256")
    is_apart = digest is None or has_own_space(facts)
    return None if is_apart else (digest, section_of(facts, "files").get(AXES_FILE))


def axes_in(file: Path) -> torch.Tensor | None:
    """Read the axes that an export's vectors are along; None where it has none."""
    return load_tensors(file)["axes"] if file.is_file() else None


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
        write_index({"": MODULE_TYPE.format("Router")}, aside)
        write_json(aside / SETTINGS_FILE, shared_file(query))
        sections = {STUDENT: facts_of(query), TEACHER: facts_of(document) | teacher_card(document.name)}
        write_vectors(aside, target.name, sections, PAIR, query=query, document=document)
    return target


# The check of a folder


def verify_embedding(folder: Path, facts: Mapping[str, Any]) -> VerifyReport:
    """Check an embedding model or a pair: files first, then the vectors in sentence-transformers."""
    if not isinstance(facts.get("files"), dict):
        return VerifyReport(folder, (f"{FACTS_FILE}: expected files, found {short_repr(facts.get('files'))}",))
    problems = list(file_problems(folder, facts, needed=(MODULES_FILE, CARD_FILE)))
    code = packed_code() if facts.get("format") == PACKED_VECTORS else {}
    problems = problems or list(code_problems(folder, facts, **code)) or list(module_problems(folder))
    difference = None
    if not problems:
        try:
            problems, difference = vector_problems(folder, facts)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:  # facts of another shape
            problems = [f"{FACTS_FILE}: its probe can't be compared: {first_line(error)}"]
    digest = file_digest(folder / code["files"][0].name) if code and not problems else None
    return VerifyReport(folder, tuple(problems), difference, digest, compared="vectors")


def module_problems(folder: Path) -> Iterator[str]:
    """Modules and settings of a folder that no export writes; sentence-transformers would import or read them."""
    kinds = MODULE_KINDS
    try:
        modules = read_modules(folder / MODULES_FILE)
        # a pair is one module, whose own file has the modules of both routes
        if modules == [(MODULE_TYPE.format("Router"), "")]:
            routed = read_json_object(folder / ROUTER_FILE, ROUTER_FILE)["types"]
            modules = [(kind, path) for path, kind in routed.items()]
        for kind, path in modules:
            place, name = folder / path, path or "."
            if kind not in kinds or not (name == "." or stays_inside(name)):
                expected = f"{MODULES_FILE}: expected modules of {', '.join(kinds)}"
                yield f"{expected}, found {short_repr(kind)} in {short_repr(name)}"
            elif kinds[kind] == "Transformer":
                encoder_config(place, name, argument="folder")
                for file in place.glob("sentence_*_config.json"):
                    settings = read_json_object(file, file.name)
                    if file.name != TRANSFORMER_FILE or not settings.keys() <= set(_TRANSFORMER_KEYS):
                        expected = f"{name}: expected {TRANSFORMER_FILE} with {', '.join(_TRANSFORMER_KEYS)}"
                        yield f"{expected}, found {file.name} with {short_repr(settings)}"
            elif kinds[kind] == "Table":
                if (read := read_json_object(place / "config.json", name)).keys() - TABLE_KEYS:
                    yield f"{name}/config.json: expected {', '.join(TABLE_KEYS)} alone, found {short_repr(read)}"
            elif kinds[kind] == "Dense":
                activation = read_json_object(place / "config.json", name).get("activation_function")
                if activation not in ACTIVATION_TYPES.values():
                    expected = f"{name} activation_function: expected one of {', '.join(ACTIVATION_TYPES.values())}"
                    yield f"{expected}, found {short_repr(activation)}"
    except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:  # a table of another shape
        yield f"modules: {error}"


def vector_problems(folder: Path, facts: Mapping[str, Any]) -> tuple[list[str], float | None]:
    """Load an export, its files already checked, with sentence-transformers in a fresh process, and compare.

    Returns:
        `(problems, difference)`: a line each; largest relative difference between found and stated vectors, None where
        no vectors were found.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        return ["sentence-transformers is not installed; pip install 'homodistil-hf[embeddings]'"], None
    version = importlib.metadata.version("sentence-transformers")
    if int(version.partition(".")[0]) < _LEAST_VERSION:
        # Before, it imported whatever class a folder named.
        problem = f"sentence-transformers {version} is installed, expected {_LEAST_VERSION} or later, which runs no "
        return [f"{problem}code of a folder; pip install 'homodistil-hf[embeddings]'"], None
    routes = list(facts["probe"]["vectors"])
    try:
        loader, has_code = LOADERS.get(facts["format"], "SentenceTransformer"), facts["format"] == PACKED_VECTORS
        found, vectors = run_fresh(_FRESH_PROCESS, [folder.resolve(), loader, ",".join(routes), int(has_code)])
    except (ValueError, OSError) as error:
        return [str(error)], None
    expected = facts["settings_of_vectors"]
    # the library adds empty prompts
    found["prompts"] = {name: text for name, text in found["prompts"].items() if text or name in expected["prompts"]}
    problems = [
        f"{name}: expected {short_repr(value)}, found {short_repr(found[name])}"
        for name, value in expected.items()
        # sentence-transformers has its own default of what is not set
        if found.get(name) != value and (value is not None or name == "default_prompt_name")
    ]
    probed, channels = facts["probe"]["vectors"], facts["probe"]["channels"]
    differences = {
        f"{route} vectors": relative_difference(vectors[route][:, channels], torch.tensor(probed[route]))
        for route in routes
    }
    problems += difference_problems(differences, PACKED_TOLERANCE if has_code else VECTOR_TOLERANCE)
    return problems, max(differences.values())
