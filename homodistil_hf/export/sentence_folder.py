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

from ..files.provenance import public_name, version_facts
from ..files.strict_json import write_json
from ..files.tensors import WEIGHTS_FILE
from ..models.conversion import to_stock
from ..models.cost import model_facts
from ..models.families.modeling_layerwise import LayerwiseModel
from ..models.sentence_embeddings import MODULES_FILE, POOLINGS, SETTINGS_FILE, TRANSFORMER_FILE, Dense, EmbeddingModel
from .export_folder import check_target, plain_classes, written_aside
from .facts import CARD_FILE, FACTS_FILE, FACTS_VERSION, file_facts

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
            "student": model_facts(encoder) | {"dimension": model.dimension},
            "teacher": None if teacher is None else _facts_of(teacher),
            "probe": {"texts": list(PROBE_TEXTS), "vectors": model.encode(list(PROBE_TEXTS)).tolist()},
            **(facts or {}),
        }
        write_json(aside / FACTS_FILE, known | {"files": file_facts(aside)})
        (aside / CARD_FILE).write_text(_card(target.name, model, known), encoding="utf-8")
    return target


def _facts_of(model: EmbeddingModel) -> dict[str, Any]:
    return model_facts(model.encoder) | {"dimension": model.dimension, "name": public_name(model.name)}


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


def _card(name: str, model: EmbeddingModel, facts: Mapping[str, Any]) -> str:
    student, teacher = facts["student"], facts["teacher"]
    made = ""
    if teacher is not None:
        made = (
            f" It was made from `{teacher['name']}` by pruning the width of its encoder, with unlabelled text: "
            f"{student['num_parameters']:,} of {teacher['num_parameters']:,} parameters, "
            f"{student['encoder_macs'] / teacher['encoder_macs']:.0%} of the encoder's multiply-accumulates."
        )
        if model.dimension == teacher["dimension"]:
            made += " Its vectors are in the same space: an index of the teacher's can stay."
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity]
---

# {name}

Texts of up to {model.settings.max_seq_length} tokens → vectors of {model.dimension} channels.{made}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
print(model.similarity(*model.encode(["It rains.", "The weather is wet."])))
```
"""
