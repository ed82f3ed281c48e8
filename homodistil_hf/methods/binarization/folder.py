"""Writes a trained model of bits to a folder with one bit a weight, which transformers loads without this package."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...export.card import card_table, code_span, fill_card, loading_lines
from ...export.export_folder import check_target, plain_classes, written_aside
from ...export.facts import CARD_FILE, FACTS_FILE, FACTS_VERSION, file_facts
from ...export.probe import probe_facts, probe_inputs
from ...files.provenance import version_facts
from ...files.strict_json import write_json
from ...models.architectures import modeling_binarybert, modeling_homobert, modeling_layerwise
from ...models.architectures.modeling_binarybert import PackedEmbedding, PackedLinear
from .binarizing import to_packed

_MODELING = modeling_binarybert.__name__.rpartition(".")[2]
PACKED = "packed"
CODE = tuple(Path(str(module.__file__)) for module in (modeling_binarybert, modeling_homobert, modeling_layerwise))
"""Modelling files that are copied to every folder."""
BITS = "activation_bits"
"""The entry of a stage's metrics that is a setting."""
LARGEST = 1.05
"""Largest size of the weights, as a share of their bits and floats."""


def export_packed(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model of bits to a folder; its logits are those of the model, to float32's rounding.

    Args:
        model: trained by [`BinarizationTrainer`].
        folder: to write; created with its parents.
        tokenizer: saved along.
        facts: for `facts.json`; the card has `teacher`, a name, and `metrics` of each form of the model.
        overwrite: replace an earlier export in the folder.

    Returns:
        `Path`: the folder, for `from_pretrained` with `trust_remote_code=True`.

    Raises:
        ValueError: not a model of bits, or a folder that is not free.
        OSError: it can't be written.
    """
    target = check_target(folder, overwrite=overwrite)
    packed = to_packed(model)
    kind = type(packed).__name__.removeprefix("BinaryBertFor")
    auto_class = f"AutoModelFor{kind}"
    packed.config.auto_map = auto_map_of(auto_class)
    with written_aside(target, overwrite=overwrite) as aside:
        with plain_classes(type(packed), type(packed.config)):
            packed.save_pretrained(aside)
        for file in CODE:
            shutil.copy(file, aside)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        size, least = (aside / "model.safetensors").stat().st_size, least_bytes(packed)
        if tensor_bytes(aside / "model.safetensors") > LARGEST * least:
            raise ValueError(f"folder={str(folder)!r}: {size} bytes of weights, though bits and floats are {least}")
        known = {"facts_version": FACTS_VERSION, "format": PACKED, "size_bytes": size, "least_bytes": least}
        known |= {
            "auto_class": auto_class,
            "versions": version_facts(),
            "probe": probe_facts(packed, packed_probe(packed.config)),
            **(facts or {}),
        }
        write_json(aside / FACTS_FILE, known | {"files": file_facts(aside)})
        (aside / CARD_FILE).write_text(_card(target.name, packed, known), encoding="utf-8")
    return target


def auto_map_of(auto_class: str) -> dict[str, str]:
    """What a folder's `config.json` names for transformers: the classes of its modelling file."""
    names = {"AutoConfig": "BinaryBertConfig", auto_class: auto_class.replace("AutoModelFor", "BinaryBertFor")}
    return {auto: f"{_MODELING}.{name}" for auto, name in names.items()}


def packed_probe(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The fixed input of the logits in facts."""
    return probe_inputs(config, most=config.max_position_embeddings)


def _card(name: str, packed: PreTrainedModel, facts: Mapping[str, Any]) -> str:
    config = packed.config
    bits = "1 bit" if config.activation_bits == 1 else f"{config.activation_bits} bits"
    origin = code_span(facts["teacher"]) if facts.get("teacher") else "its float teacher"
    return fill_card(
        ModelCardData(library_name="transformers", tags=["binarization"]),
        facts["versions"],
        title=name,
        summary=f"`{type(packed).__name__}` of {config.num_hidden_layers} layers × {config.hidden_size} with one bit "
        f"a weight of its encoder and of its table of words, and activations of {bits}; "
        f"{facts['size_bytes']:,} bytes of weights.",
        comparison=_measured(facts.get("metrics", {})),
        usage=loading_lines(facts["auto_class"], remote_code=True),
        format_note="The modelling files beside this one are pure torch.",
        how=f"Binarized beside {origin}, as in BiT: Robustly Binarized Multi-distilled Transformer (Liu et al., "
        "NeurIPS 2022, arXiv 2205.13016).",
    )


def _measured(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """A table of the float model and the stages; empty where nothing was measured."""
    names = [name for found in list(metrics.values())[:1] for name in found if name != BITS]
    rows = [
        [f"{found[BITS]}-bit activations" if BITS in found else form, *(float(found[name]) for name in names)]
        for form, found in metrics.items()
    ]
    return card_table(["", *names], rows) if rows else ""


def tensor_bytes(file: Path) -> int:
    """Bytes of a safetensors file behind its header."""
    with file.open("rb") as content:
        return file.stat().st_size - 8 - int.from_bytes(content.read(8), "little")


def least_bytes(packed: PreTrainedModel) -> int:
    """Bytes of the weights: bits / 8 of each binarized row, rounded up, and four for each value that stays float."""
    bits = sum(
        module.out_features * -(-module.in_features // 8)
        if isinstance(module, PackedLinear)
        else module.num_embeddings * -(-module.embedding_dim // 8)
        for module in packed.modules()
        if isinstance(module, PackedLinear | PackedEmbedding)
    )
    floats = sum(tensor.numel() for tensor in packed.state_dict().values() if tensor.dtype != torch.uint8)
    return bits + 4 * floats
