"""Checks a folder of bits against its facts, and its logits in a process that can't import this package."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ...export.facts import FACTS_FILE, fits
from ...export.probe import all_logits
from ...export.verify import (
    RELATIVE_TOLERANCE,
    VerifyReport,
    code_problems,
    difference_problems,
    file_problems,
    load_fresh,
    relative_difference,
)
from ...files.checkpoints import file_digest
from ...files.messages import short_repr
from ...files.tensors import WEIGHTS_FILE, check_weights
from ...models.architectures import modeling_binarybert
from ...models.architectures.architecture import MASKED_LM
from ...models.architectures.bert import BERT
from ...models.architectures.modeling_binarybert import BinaryBertConfig
from ...models.cost import count_parameters
from ...models.loading import checked_config, config_values, load_weights
from ...models.widths import widths_of
from .folder import CODE, LARGEST, auto_map_of, packed_probe, tensor_bytes

IN_MEMORY_TOLERANCE = 0.1
"""Relative difference from the logits in memory: on another processor an activation may get its other bit."""


def size_problems(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Weights that are larger than their bits and floats."""
    least, found = facts.get("least_bytes"), tensor_bytes(folder / WEIGHTS_FILE)
    if not isinstance(least, int) or found > LARGEST * least:
        yield f"{WEIGHTS_FILE}: expected at most {LARGEST:g} × {short_repr(least)} bytes, found {found}"


def packed_config(folder: Path) -> PreTrainedConfig:
    """Read and check a folder's configuration, and that its weights are no fewer than its bits.

    Raises:
        ValueError: a setting that can't be used.
    """
    label = f"folder={str(folder)!r}"
    values = config_values(folder, label)
    as_floats = checked_config(values | {"model_type": BERT.student_type}, BERT.student_config, label)
    check_weights(folder, count_parameters(widths_of(as_floats), as_floats) // 8, label)
    return checked_config(values, BinaryBertConfig, label)


@torch.inference_mode()
def logits_of(folder: Path, auto_class: str, config: PreTrainedConfig) -> torch.Tensor:
    """Logits of the model with this package's classes."""
    model_class = getattr(modeling_binarybert, auto_class.replace("AutoModelFor", "BinaryBertFor"))
    model = load_weights(model_class, folder, config, label=f"folder={str(folder)!r}")
    return all_logits(model.eval()(**packed_probe(config)))


def difference_of(facts: Mapping[str, Any], logits: torch.Tensor) -> float:
    """Largest difference from the logits in memory, by the largest of those or 1; infinite where they don't match.

    Raises:
        ValueError: facts without such logits.
    """
    probe: Any = facts.get("probe")
    is_fitting = fits(probe, {"logits": [int | float], "positions": [int]})
    if not is_fitting or len(probe["logits"]) != len(probe["positions"]) or min(probe["positions"], default=0) < 0:
        raise ValueError(f"{FACTS_FILE} probe: expected positions and as many logits, found {short_repr(probe)}")
    expected, found, positions = torch.tensor(probe["logits"]), logits.flatten(), probe["positions"]
    if not positions or max(positions) >= len(found):
        return float("inf")
    return relative_difference(found[positions], expected)


def verify_packed(folder: Path, facts: Mapping[str, Any]) -> VerifyReport:
    """Check files, size and code first, then the logits of a process without this package."""
    problems = [
        f"{FACTS_FILE}: expected {name}, found {short_repr(facts.get(name))}"
        for name, is_right in (("files", isinstance(facts.get("files"), dict)), ("auto_class", _is_of_bits(facts)))
        if not is_right
    ]
    problems = (
        problems
        or list(file_problems(folder, facts))
        or list(code_problems(folder, facts, files=CODE, auto_map=auto_map_of(facts["auto_class"])))
    )
    if problems := problems or list(size_problems(folder, facts)):
        return VerifyReport(folder, tuple(problems))
    name = facts["auto_class"]
    try:
        config = packed_config(folder)
        _, tensors = load_fresh(folder, [name], packed_probe(config))
        fresh = tensors[f"{name}.logits"]
        here, in_memory = relative_difference(fresh, logits_of(folder, name, config)), difference_of(facts, fresh)
    except (ValueError, RuntimeError, OSError) as error:
        return VerifyReport(folder, (f"the export can't be loaded: {error}",))
    problems = [
        *difference_problems({f"{name}, logits with this package": here}, RELATIVE_TOLERANCE),
        *difference_problems({f"{name}, logits in memory": in_memory}, IN_MEMORY_TOLERANCE),
    ]
    return VerifyReport(folder, tuple(problems), here, file_digest(folder / CODE[0].name))


def _is_of_bits(facts: Mapping[str, Any]) -> bool:
    known = [head.kind.auto_class for head in BERT.heads if head.kind is not MASKED_LM]
    return facts.get("auto_class") in known
