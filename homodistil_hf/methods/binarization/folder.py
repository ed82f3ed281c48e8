"""Writes a trained model of bits to a folder with one bit a weight, and checks such a folder.

transformers loads it without this package, by the modelling files in it.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...export.card import CODE_NOTE, card_table, code_span, fill_card, loading_lines, result_title, run_texts
from ...export.export_folder import check_target, save_model, write_record, written_aside
from ...export.facts import FACTS_FILE, PACKED, probe_facts, probe_inputs
from ...export.verify import (
    VerifyReport,
    code_problems,
    difference_problems,
    file_problems,
    load_fresh,
)
from ...files.checkpoints import file_digest
from ...files.messages import short_repr
from ...files.strict_json import fits
from ...files.tensors import WEIGHTS_FILE
from ...models.architectures.architecture import MASKED_LM
from ...models.architectures.bert import BERT
from ...models.equality import relative_difference
from ...models.packed import CODE, auto_map_of, packed_config
from ...tasks.kinds import IS_CONSTANT
from .binarizing import to_packed

BITS = "activation_bits"
"""The entry of a stage's metrics that is a setting."""
AS_IN = "as in BiT: Robustly Binarized Multi-distilled Transformer (Liu et al., NeurIPS 2022, arXiv 2205.13016)"
"""The method, for cards."""
IN_MEMORY_TOLERANCE = 0.1
"""Relative difference from the logits in memory: on another processor an activation may get its other bit."""


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
        facts: for `facts.json`; the card has `teacher`, the facts of the float model, `metrics` of each form of the
            model, and the sections of a run.
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
        save_model(packed, aside, tokenizer, code=CODE)
        size = (aside / WEIGHTS_FILE).stat().st_size
        known = {
            "format": PACKED,
            "size_bytes": size,
            "auto_class": auto_class,
            "student": {"size_bytes": size},
            "probe": probe_facts(packed, probe_inputs(packed.config, most=packed.config.max_position_embeddings)),
            **(facts or {}),
        }
        write_record(aside, known, partial(_card, target.name, packed))
    return target


def _card(name: str, packed: PreTrainedModel, facts: Mapping[str, Any]) -> str:
    config = packed.config
    bits = "1 bit" if config.activation_bits == 1 else f"{config.activation_bits} bits"
    teacher = facts.get("teacher")
    origin = code_span(teacher["name"]) if teacher else "its float teacher"
    texts = run_texts(facts)
    # a table of the float model and the stages; none where nothing was measured
    forms = facts.get("metrics", {})
    names = [name for metrics in list(forms.values())[:1] for name in metrics if name not in (BITS, IS_CONSTANT)]
    rows = [
        [f"{metrics[BITS]}-bit activations" if BITS in metrics else form, *(float(metrics[name]) for name in names)]
        for form, metrics in forms.items()
    ]
    texts["comparison"] += f"\n\n{card_table(['', *names], rows) if rows else ''}"
    return fill_card(
        ModelCardData(
            library_name="transformers", license=(teacher or {}).get("licence"), tags=["homodistil", "binarization"]
        ),
        facts["versions"],
        title=result_title(facts, name),
        summary=f"`{type(packed).__name__}` of {config.num_hidden_layers} layers × {config.hidden_size} with one bit "
        f"a weight of its encoder and of its table of words, and activations of {bits}; "
        f"{facts['size_bytes']:,} bytes of weights.",
        usage=loading_lines(facts["auto_class"], remote_code=True),
        format_note=CODE_NOTE,
        how=f"Binarized beside {origin}, {AS_IN}.",
        **texts,
    )


def verify_packed(folder: Path, facts: Mapping[str, Any]) -> VerifyReport:
    """Check files, size and code first, then the logits of a process without this package."""
    auto_classes = [head.kind.auto_class for head in BERT.heads if head.kind is not MASKED_LM]
    is_right = {"files": isinstance(facts.get("files"), dict), "auto_class": facts.get("auto_class") in auto_classes}
    problems = [
        f"{FACTS_FILE}: expected {name}, found {short_repr(facts.get(name))}"
        for name in is_right
        if not is_right[name]
    ]
    # each check only where the ones before it found nothing: code and sizes of damaged files mean nothing
    problems = (
        problems
        or list(file_problems(folder, facts))
        or list(code_problems(folder, facts, files=CODE, auto_map=auto_map_of(facts["auto_class"])))
    )
    if problems:
        return VerifyReport(folder, tuple(problems))
    name, label = facts["auto_class"], f"folder={str(folder)!r}"
    try:
        packed_config(folder, label)
        _, tensors = load_fresh(folder, [name])
        probe: Any = facts.get("probe")
        is_read = fits(probe, {"logits": [int | float], "positions": [int]})
        if not is_read or min(probe["positions"], default=0) < 0:
            raise ValueError(f"{FACTS_FILE} probe: expected positions and logits, found {short_repr(probe)}")
        difference = relative_difference(tensors[name].flatten()[probe["positions"]], torch.tensor(probe["logits"]))
    except (ValueError, RuntimeError, IndexError, OSError) as error:
        return VerifyReport(folder, (f"the export can't be loaded: {error}",))
    problems = list(difference_problems({f"{name}, logits in memory": difference}, IN_MEMORY_TOLERANCE))
    return VerifyReport(folder, tuple(problems), difference, file_digest(folder / CODE[0].name))
