"""A student of an embedding model → a folder for sentence-transformers and servers of vectors.

Its form is that before version 5.4, with stock modules alone: newer versions read both forms, older ones misread the
newer one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ...export.export_folder import check_target, plain_classes, written_aside
from ...export.facts import BENCHMARKS, CARD_FILE, FACTS_FILE, FACTS_VERSION, file_facts, run_facts
from ...files.folders import write_text
from ...files.provenance import public_name, version_facts
from ...files.strict_json import read_json_object, write_json
from ...files.tensors import WEIGHTS_FILE
from ...models.architectures.modeling_layerwise import LayerwiseModel
from ...models.conversion import to_stock
from ...models.cost import model_facts
from .card import TEACHER, embedding_card
from .model import (
    MODULES_FILE,
    POOLINGS,
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    Dense,
    EmbeddingModel,
    folded,
)

FORMAT, PAIR = "sentence-transformers", "sentence-transformers pair"
PROBE_TEXTS = (
    "The cat sat on the mat.",
    "Stock markets fell on Tuesday after the central bank's announcement.",
    "",
    "More than any model reads. " * 2000,
)
AXES_FILE = "axes.safetensors"
ROUTER_FILE = "router_config.json"
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
        dense: the map into the teacher's space.
        teacher: source of pooling, layers, tokenizer and prompts.

    Raises:
        ValueError: the stock class can't hold the student's widths.
    """
    return dataclasses.replace(
        teacher, name="", encoder=to_stock(student).eval(), dense=folded([Dense(dense), *teacher.dense])
    )


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
        folder: where to; created with its parents.
        teacher: of the student, or its section of earlier facts, for facts and card.
        facts: further facts of the run.
        has_own_space: whether its vectors are in another space than the teacher's, of whatever length.
        axes: `(N, D)`, where vectors are the teacher's along N axes; written to the folder, as they turn an index of
            the teacher's vectors into a shorter one.
        overwrite: replace an earlier export in the folder.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: a folder that is not free.
        OSError: it can't be written.
    """
    target = check_target(folder, overwrite=overwrite)
    with written_aside(target, overwrite=overwrite) as aside:
        write_model(model, aside)
        if axes is not None:
            save_file({"axes": axes.contiguous()}, aside / AXES_FILE)
        known = {
            "facts_version": FACTS_VERSION,
            "format": FORMAT,
            "versions": version_facts(),
            "student": facts_of(model) | {"has_own_space": has_own_space},
            "teacher": facts_of(teacher) if isinstance(teacher, EmbeddingModel) else teacher,
            "settings_of_vectors": shared_settings(model),
            "probe": probe_facts(query=model),
            **run_facts(facts),
        }
        write_json(aside / FACTS_FILE, known | {"files": file_facts(aside)})
        (aside / CARD_FILE).write_text(embedding_card(target.name, known), encoding="utf-8")
    return target


def write_model(model: EmbeddingModel, folder: Path) -> None:
    """Write all files of sentence-transformers to an empty folder."""
    kinds = module_kinds(model)
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    write_modules(model, [folder / path for path in paths])
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": MODULE_TYPE.format(kind)}
        for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / MODULES_FILE, modules)
    write_json(folder / SETTINGS_FILE, shared_file(model))


def publish_scores(folder: str | Path, scores: Mapping[str, Any]) -> None:
    """Write results into an export's facts and card; folders that are no export stay as they are.

    Args:
        folder: perhaps an export.
        scores: `models`, `agreement` and `scores`, see [`embedding_table`]. Earlier ones stay if they were measured
            beside the same teacher.
    """
    facts = read_embedding_facts(folder)
    if facts.get("format") != FORMAT:
        return
    measured = facts.get(BENCHMARKS, {})
    if measured.get("models", {}).get(TEACHER) != scores["models"].get(TEACHER):
        measured = {}
    facts[BENCHMARKS] = measured | scores | {"scores": measured.get("scores", {}) | scores.get("scores", {})}
    write_json(Path(folder) / FACTS_FILE, facts)
    write_text(Path(folder) / CARD_FILE, embedding_card(Path(folder).resolve().name, facts))


def read_embedding_facts(folder: str | Path) -> dict[str, Any]:
    """Content of `facts.json`; empty for a folder without it, such as a teacher's."""
    file = Path(folder) / FACTS_FILE
    return read_json_object(file, FACTS_FILE) if file.is_file() else {}


def has_own_space(facts: Mapping[str, Any]) -> bool:
    """Whether an export's vectors are in another space than its teacher's, of whatever length."""
    student = facts.get("student")
    return isinstance(student, dict) and bool(student.get("has_own_space"))


def probe_facts(**models: EmbeddingModel) -> dict[str, Any]:
    """Fixed texts, and their vectors by route."""
    texts = list(PROBE_TEXTS)
    return {"texts": texts, "vectors": {route: model.encode(texts).tolist() for route, model in models.items()}}


def shared_settings(model: EmbeddingModel) -> dict[str, Any]:
    """Settings that sentence-transformers reads from the folder, for the facts."""
    settings = model.settings
    return {
        "max_seq_length": settings.max_seq_length,
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
    }


def facts_of(model: EmbeddingModel) -> dict[str, Any]:
    """A model's section of facts: name, costs, dimension, length and digest."""
    name = public_name(model.name)
    own = {"name": name, "is_on_hub": name == model.name != "" and not Path(name).exists()}
    return (
        own
        | model_facts(model.encoder)
        | {
            "dimension": model.dimension,
            "max_seq_length": model.settings.max_seq_length,
            "sha256": model.sha256,
        }
    )


def module_kinds(model: EmbeddingModel) -> list[str]:
    """The kinds of its modules, in order."""
    return ["Transformer", "Pooling", *["Dense"] * len(model.dense), *["Normalize"] * model.settings.normalizes]


def write_modules(model: EmbeddingModel, folders: Sequence[Path]) -> None:
    """Write the modules of [`module_kinds`], a folder each: encoder with tokenizer and length, pooling, layers."""
    for folder in folders:
        folder.mkdir(exist_ok=True)
    encoder: Any = model.encoder
    with plain_classes(type(encoder), type(encoder.config)):
        encoder.save_pretrained(folders[0])
    model.tokenizer.save_pretrained(folders[0])
    own = (model.settings.max_seq_length, model.settings.lowers)
    write_json(folders[0] / TRANSFORMER_FILE, dict(zip(TRANSFORMER_KEYS, own, strict=True)))
    pooling = {switch: name == model.settings.pooling for name, switch in POOLINGS.items()}
    write_json(folders[1] / "config.json", {"word_embedding_dimension": model.encoder.config.hidden_size, **pooling})
    # A folder is left for `Normalize`, which has no files.
    for layer, folder in zip(model.dense, folders[2:], strict=False):
        _write_dense(layer, folder)


def shared_file(model: EmbeddingModel) -> dict[str, Any]:
    """Content of `config_sentence_transformers.json`."""
    kept = ("prompts", "default_prompt_name", *["similarity_fn_name"] * (model.settings.similarity is not None))
    shared = shared_settings(model)
    return {"__version__": {}} | {name: shared[name] for name in kept}


def _write_dense(layer: Dense, folder: Path) -> None:
    linear = layer.linear
    values = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None}
    write_json(folder / "config.json", values | {"activation_function": ACTIVATION_TYPES[layer.activation]})
    tensors = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in linear.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
