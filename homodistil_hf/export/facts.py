"""`facts.json` of an export: costs, digests, logits of a fixed input, sections of the run.

The logits are those of the student in memory; verify.py compares them with those of the loaded export.
export_folder.py writes the file, card.py puts the facts in words.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..files.checkpoints import file_digest
from ..files.inside import files_inside
from ..files.messages import nearest_valid, short_repr
from ..files.provenance import public_name
from ..files.strict_json import fits, read_json
from ..models.architectures import HEADS, max_tokens
from ..models.cost import COSTS, planned_facts
from ..models.widths import widths_of

FACTS_FILE = "facts.json"
CARD_FILE = "README.md"
TRIMMING_FILE = "trimming.json"
"""In place of the facts beside a model with fewer tokens."""
FACTS_VERSION = 1

BENCHMARKS = "benchmarks"
GUARANTEE = "guarantee"
"""Of the benchmarks: source of held-out rows → how often the student answers as its teacher, with a bound."""

PACKED, VECTORS = "packed", "sentence-transformers"
PACKED_VECTORS, PAIR = f"{VECTORS} packed", f"{VECTORS} pair"
SPARSE, MULTI_VECTOR = f"{VECTORS} sparse", f"{VECTORS} multi-vector"
"""Formats of exports: of bits with a head, of embedding models, and of these with an encoder of bits, in pairs, sparse
and multi-vector; those of other models with a head are `FORMATS` of export_folder.py."""
NOT_DEPLOYED = (PACKED, PACKED_VECTORS, PAIR, SPARSE, MULTI_VECTOR)
"""Formats that no other runtime reads, see `methods/formats.py`."""
CARD_SECTION = "card"
SIZES = "sizes"
"""Of a nested student: name of each size → its costs and held-out metrics, the largest first."""
CHANGED, DATA, LATENCY = "changed_settings", "data", "latency"
RUN_SECTIONS = (
    *("settings", CHANGED, "training", DATA, "evaluation", "teacher_evaluation", LATENCY, CARD_SECTION, BENCHMARKS),
    SIZES,
)
"""Sections that a run may add: its arguments, and those that differ from defaults; steps, tokens, …; names and numbers
of its rows, and what those of a task predict; held-out metrics of the student and of the teacher; times of both on the
machine of the run; the card's texts on the training method; later results of `homodistil evaluate`: `tasks`,
`discrepancy`, `guarantee`."""

_BOUNDED = {"num_rows": int, "num_changed": int, "agreement": int | float, "at_least": int | float}
_GUARANTEE = _BOUNDED | {"confidence": int | float, "groups": {...: {...: _BOUNDED}}}
_SHAPES: dict[str, Any] = {
    **dict.fromkeys(("student", "forms", "cost_fractions", "files", "versions", *RUN_SECTIONS), dict),
    "probe": {"logits": [float]},
}
"""Section → what cards, checks and tables of models read of it."""

UNKNOWN_LICENCE = "unknown"
THIS_FOLDER = 'name = "."  # this folder'
"""The line of a card's snippet in which a push puts the name of the repository."""

NAMESAKE = "HomoDistil, which `homodistil_hf` is named after, is the method of"
"""Begins the sentence on the paper in cards of students that may have nothing of it."""

LOSSES_ALONE = "The losses are HomoDistil's, its gradual pruning is not; HomoDistil is the method of"
"""The same in cards of students that were not pruned gradually."""

_PRIVATE_SETTINGS = ("output_dir", "logging_dir", "resume_from_checkpoint")

_NUM_PROBE_TOKENS = 16
_NUM_PROBE_LOGITS = 64


@dataclass(frozen=True)
class MethodCard:
    """The texts on a training method; exports carry them in their facts.

    Args:
        student: name of such a student, in front of "of" and the teacher's name.
        made: ends the sentence "a BERT of 6 layers that was …"; `{teacher}` is the teacher's place.
        how: the paragraph on how it was made.
        paper: how HomoDistil's paper relates to it, in front of the citation.
        tags: words for the card's header.
    """

    student: str
    made: str
    how: str
    paper: str = f"This student was trained by another method; {NAMESAKE}"
    tags: tuple[str, ...] = ("distillation",)


def forms_facts(student: PreTrainedModel) -> dict[str, Any]:
    """Costs of the student in each export format, where they differ.

    Returns:
        `compact` and `padded`, each as of [`model_facts`]; `padded` is `None` where no stock class can hold the
        student. Empty where padding changes nothing.
    """
    plan = widths_of(student.config)
    try:
        padded = plan.padded()
    except ValueError:
        padded = None
    if padded == plan:
        return {}
    class_name = type(student).__name__
    stock_name = HEADS[class_name].stock_name
    return {
        "compact": planned_facts(student.config, class_name),
        "padded": planned_facts(student.config, stock_name, padded) if padded else None,
    }


def run_facts(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check a run's sections, any of `RUN_SECTIONS`, and make plain JSON values of them.

    Access tokens and folders of this machine are left out; of other paths that exist here the last part is kept.

    Raises:
        ValueError: an unknown section.
    """
    sections = dict(facts or {})
    for name in sections.keys() - {*RUN_SECTIONS}:
        raise ValueError(f"facts has the unknown section {short_repr(name)}; {nearest_valid(name, RUN_SECTIONS)}")
    for section in ("settings", CHANGED):
        sections[section] = {
            name: _without_folders(value)
            for name, value in sections.get(section, {}).items()
            if not name.endswith("token") and name not in _PRIVATE_SETTINGS
        }
    text = json.dumps(
        {name: section for name, section in sections.items() if section},
        default=lambda value: value.item() if isinstance(value, np.generic) else str(value),
    )
    found: dict[str, Any] = json.loads(text, parse_constant=lambda word: str(float(word)))  # JSON has no nan or inf
    return found


def section_of(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of facts, or of results; empty where it is missing or no object."""
    section = facts.get(name)
    return section if isinstance(section, Mapping) else {}


def file_facts(folder: Path) -> dict[str, Any]:
    """Path inside an export → `sha256` and `size_bytes`, sorted; facts, card and links out of it excepted."""
    return {
        name: {"sha256": file_digest(path), "size_bytes": path.stat().st_size}
        for name, path in files_inside(folder).items()
        if path.name not in (FACTS_FILE, CARD_FILE)
    }


def weights_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Each file of weights → its digest."""
    return {name: entry for name, entry in section_of(facts, "files").items() if name.endswith(".safetensors")}


def read_facts(folder: Path) -> dict[str, Any]:
    """Read `facts.json` of an export.

    Raises:
        ValueError: the file is missing, or holds no facts of this version.
    """
    path = folder / FACTS_FILE
    if not folder.exists():
        raise ValueError(f"folder={str(folder)!r} does not exist; name an export, or the output_dir of a finished run")
    if not path.is_file():
        raise ValueError(
            f"folder={str(folder)!r} has no {FACTS_FILE}; expected an export of this package: name what distill, "
            "prune, trim or export wrote"
        )
    facts = read_json(path, f"{FACTS_FILE} in folder={str(folder)!r}")
    if not isinstance(facts, dict) or facts.get("facts_version") != FACTS_VERSION:
        raise ValueError(
            f"{FACTS_FILE} in folder={str(folder)!r} is not of version {FACTS_VERSION}; export again with this package"
        )
    return facts


def read_export_facts(folder: Path) -> dict[str, Any]:
    """Read `facts.json` with all its sections, each of the right type.

    Raises:
        ValueError: see [`read_facts`]; also a section that is missing or of another type.
    """
    facts = read_facts(folder)
    check_facts(facts, folder)
    return facts


def check_facts(facts: Mapping[str, Any], folder: Path) -> None:
    """Refuse, by a ValueError, facts that lack a section or have one of another type."""
    shapes = _SHAPES | ({"forms": {"compact": {"plan": dict}}} if facts.get("forms") else {})
    present = {name: shape for name, shape in shapes.items() if name in facts or name not in RUN_SECTIONS}
    wrong = [name for name, shape in present.items() if not fits(facts.get(name), shape)]
    if facts.get("teacher") is not None and not _is_teacher(facts["teacher"]):
        wrong.append("teacher")
    # empty, or exactly the texts of a `MethodCard`
    card, texts = facts.get(CARD_SECTION), {"student": str, "made": str, "how": str, "paper": str, "tags": [str]}
    if card and not (fits(card, texts) and card.keys() == texts.keys()):
        wrong.append(CARD_SECTION)
    if wrong:
        found = f"{wrong[0]}={short_repr(facts.get(wrong[0]))}"
        raise ValueError(f"{FACTS_FILE} in folder={str(folder)!r} has {found}, which no export has; export again")


def _is_teacher(section: Any) -> bool:
    shape = {"name": str, "licence": str, "language?": [str], "hub_id?": str | None, **dict.fromkeys(COSTS, int)}
    # any name of a repository stands for a teacher that is none
    return (
        fits(section, shape)
        and all(section[name] > 0 for name in COSTS)
        and is_hub_id(section.get("hub_id") or "a/name")
    )


def is_guarantee(section: Any) -> bool:
    """Whether a section holds all that cards and checks read of guarantees; an empty one does."""
    return fits(section, {...: _GUARANTEE})


def _without_folders(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return public_name(value) if isinstance(value, str) and {*value} & {*"/\\"} else value


def is_hub_id(name: str) -> bool:
    """Whether a repository on the Hub can have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def probe_inputs(config: PreTrainedConfig, *, most: int | None = None) -> dict[str, torch.Tensor]:
    """Two fixed sequences of up to 16 tokens, one of them padded, with both segments where the model has them.

    `most` is the model's number of positions; default: by its architecture.

    Returns:
        `input_ids`, `attention_mask` and, where a model has them, `token_type_ids`, each `(2, tokens)` int64.
    """
    num_tokens = min(_NUM_PROBE_TOKENS, most or max_tokens(config))
    # A prime stride spreads the tokens over any vocabulary.
    input_ids_BT = (torch.arange(2 * num_tokens) * 7919 + 1).remainder(config.vocab_size).view(2, num_tokens)
    attention_mask_BT = torch.ones_like(input_ids_BT)
    attention_mask_BT[1, 3 * num_tokens // 4 :] = 0
    segments = torch.arange(num_tokens) >= num_tokens // 2
    inputs = {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT}
    if num_types := getattr(config, "type_vocab_size", 0):
        inputs["token_type_ids"] = (segments.long() * (num_types > 1)).expand(2, -1).contiguous()
    return inputs


def all_logits(outputs: ModelOutput) -> torch.Tensor:
    """The logits of any head as one tensor; for question answering `(batch, tokens, 2)`, start and end."""
    if "start_logits" in outputs:
        return torch.stack((outputs["start_logits"], outputs["end_logits"]), dim=-1)
    return outputs["logits"]


def probe_facts(model: PreTrainedModel, inputs: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """Evenly picked logits of a model in evaluation mode on `inputs`, by default [`probe_inputs`].

    Returns:
        The inputs as lists; `positions` in the flattened logits and the `logits` there, up to 64.

    Raises:
        ValueError: logits are not finite.
    """
    inputs = inputs or probe_inputs(model.config)
    with torch.no_grad():
        logits = all_logits(model(**inputs)).flatten()
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"model gives logits that are not finite ({int((~logits.isfinite()).sum())} of {logits.numel()} on the "
            f"probe); its training diverged: export an earlier checkpoint"
        )
    positions = torch.linspace(0, logits.numel() - 1, min(_NUM_PROBE_LOGITS, logits.numel())).long()
    lists = {name: tensor.tolist() for name, tensor in inputs.items()}
    return {**lists, "positions": positions.tolist(), "logits": logits[positions].tolist()}
