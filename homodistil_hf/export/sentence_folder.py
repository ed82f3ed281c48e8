"""A student of an embedding model → a folder that sentence-transformers and servers of vectors read.

It is written in the form of before version 5.4, with stock modules alone: newer readers take it, and older ones
misread the newer form.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from ..files.folders import write_text
from ..files.provenance import public_name, version_facts
from ..files.strict_json import read_json_object, write_json
from ..files.tensors import WEIGHTS_FILE
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.families.modeling_layerwise import LayerwiseModel
from ..models.sentence_embeddings import MODULES_FILE, POOLINGS, SETTINGS_FILE, TRANSFORMER_FILE, Dense, EmbeddingModel
from .embedding_card import embedding_card
from .export_folder import check_target, plain_classes, written_aside
from .facts import BENCHMARKS, CARD_FILE, FACTS_FILE, FACTS_VERSION, file_facts

FORMAT = "sentence-transformers"
PROBE_TEXTS = ("The cat sat on the mat.", "Stock markets fell on Tuesday after the central bank's announcement.", "")
_ACTIVATION = {
    "Identity": "torch.nn.modules.linear.Identity",
    **{name: f"torch.nn.modules.activation.{name}" for name in ("Tanh", "ReLU", "GELU", "Sigmoid")},
}


def student_model(student: LayerwiseModel, dense: nn.Linear, teacher: EmbeddingModel) -> EmbeddingModel:
    """A student as an embedding model of stock modules.

    Args:
        student: its encoder, compacted, without projections.
        dense: the map into the teacher's space.
        teacher: whose pooling, layers, tokenizer and prompts it takes over.

    Raises:
        ValueError: widths that the stock class can't hold.
    """
    return dataclasses.replace(teacher, encoder=to_stock(student).eval(), dense=(Dense(dense), *teacher.dense))


def export_embedding_model(
    model: EmbeddingModel,
    folder: str | Path,
    *,
    teacher: EmbeddingModel | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an embedding model of stock modules to a folder for `SentenceTransformer(folder)`.

    Args:
        model: what [`student_model`] gives.
        folder: where to; created with its parents.
        teacher: what it was made from, for facts and card.
        facts: further facts of the run.
        overwrite: replace an earlier export in the folder.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: a folder that is not free.
        OSError: it can't be written.
    """
    target = check_target(folder, overwrite=overwrite)
    encoder: Any = model.encoder
    with written_aside(target) as aside:
        with plain_classes(type(encoder), type(encoder.config)):
            encoder.save_pretrained(aside)
        model.tokenizer.save_pretrained(aside)
        _write_modules(model, aside)
        known = {
            "facts_version": FACTS_VERSION,
            "format": FORMAT,
            "versions": version_facts(),
            "student": _facts_of(model),
            "teacher": None if teacher is None else _facts_of(teacher),
            "probe": {"texts": list(PROBE_TEXTS), "vectors": model.encode(list(PROBE_TEXTS)).tolist()},
            **(facts or {}),
        }
        write_json(aside / FACTS_FILE, known | {"files": file_facts(aside)})
        (aside / CARD_FILE).write_text(embedding_card(target.name, known), encoding="utf-8")
    return target


def publish_scores(folder: str | Path, scores: Mapping[str, Any]) -> None:
    """Write what was measured of an export into its facts and its card; nothing for folders that are no export.

    Args:
        folder: perhaps an export.
        scores: `agreement` and `scores`, as [`embedding_table`] takes them; others that the facts have stay.
    """
    file = Path(folder) / FACTS_FILE
    if not file.is_file():
        return
    facts = read_json_object(file, FACTS_FILE)
    if facts.get("format") != FORMAT:
        return
    measured = facts.get(BENCHMARKS, {})
    facts[BENCHMARKS] = measured | scores | {"scores": measured.get("scores", {}) | scores.get("scores", {})}
    write_json(file, facts)
    write_text(Path(folder) / CARD_FILE, embedding_card(Path(folder).resolve().name, facts))


def _facts_of(model: EmbeddingModel) -> dict[str, Any]:
    name = public_name(model.name)
    own = {"name": name, "is_on_hub": bool(name) and name == model.name}
    return (
        own
        | model_facts(model.encoder)
        | {
            "dimension": model.dimension,
            "max_seq_length": model.settings.max_seq_length,
        }
    )


def _write_modules(model: EmbeddingModel, folder: Path) -> None:
    settings = model.settings
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules += [("Dense", f"{index}_Dense") for index in range(2, 2 + len(model.dense))]
    modules += [("Normalize", f"{len(modules)}_Normalize")] * settings.normalizes
    for index, (_, path) in enumerate(modules[1:], 1):
        (folder / path).mkdir()
        if path.endswith("Dense"):
            _write_dense(model.dense[index - 2], folder / path)
    write_json(
        folder / MODULES_FILE,
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(modules)
        ],
    )
    pooling = {switch: name == settings.pooling for name, switch in POOLINGS.items()}
    hidden_size = model.encoder.config.hidden_size
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden_size, **pooling})
    own = {"max_seq_length": settings.max_seq_length, "do_lower_case": settings.lowers}
    write_json(folder / TRANSFORMER_FILE, own)
    shared: dict[str, Any] = {"prompts": dict(settings.prompts), "default_prompt_name": settings.default_prompt_name}
    if settings.similarity is not None:
        shared["similarity_fn_name"] = settings.similarity
    write_json(folder / SETTINGS_FILE, {"__version__": {}, **shared})


def _write_dense(layer: Dense, folder: Path) -> None:
    linear = layer.linear
    values = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None}
    write_json(folder / "config.json", values | {"activation_function": _ACTIVATION[layer.activation]})
    tensors = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in linear.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE)
