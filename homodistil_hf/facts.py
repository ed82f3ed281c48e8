"""What an export says about itself: `facts.json`.

Every number of the model card stands here, and so does what `verify.py` needs: digests of the files and logits of the
student as it was in memory. `export.py` gathers the parts and writes the folder, `hub.py` turns them into a card.
"""

import json
import math
import numbers
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .checkpoint import file_digest
from .cost import encoder_macs, plan_cost
from .json_files import read_json
from .version import __version__
from .widths import WidthPlan, nearest_name, shown, teacher_plan

FACTS_FILE = "facts.json"
CARD_FILE = "README.md"
FACTS_VERSION = 1

FACTS_SECTIONS = ("student", "forms", "cost_fractions", "probe", "files", "versions")
"""What facts never lack, each an object."""

BENCHMARKS = "benchmarks"

RUN_SECTIONS = ("settings", "training", "evaluation", "teacher_evaluation", BENCHMARKS)
"""What a run may add: its arguments; steps, tokens, …; held-out metrics of the student; and of the teacher; and what
`homodistil evaluate` found out about it later: `tasks` and `discrepancy`."""

COSTS = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")

_COST_HEADS = {
    "BertForMaskedLM": "masked_lm",
    "BertForSequenceClassification": "sequence_classification",
    "BertForTokenClassification": "token_classification",
    "BertForQuestionAnswering": "question_answering",
}
_PRIVATE_SETTINGS = ("output_dir", "logging_dir", "resume_from_checkpoint")
_NUM_PROBE_TOKENS = 16
_NUM_PROBE_LOGITS = 64


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Count what a model is.

    Args:
        model: stock `BertForX` or `HomoBertForX`.

    Returns:
        `dict`: `architecture`, `plan`, `num_hidden_layers` and the four `COSTS`: parameters with tied ones once, those
        of embeddings and encoder alone, multiply-accumulates a token at 128 tokens, bytes of all parameters.
    """
    plan = teacher_plan(model.config)
    parameters = list(model.parameters())
    encoder = [parameter for name, parameter in model.base_model.named_parameters() if not name.startswith("pooler.")]
    return {
        "architecture": type(model).__name__,
        "plan": plan.to_dict(),
        "num_hidden_layers": len(plan.layers),
        "num_parameters": sum(parameter.numel() for parameter in parameters),
        "num_encoder_parameters": sum(parameter.numel() for parameter in encoder),
        "encoder_macs": encoder_macs(plan),
        "size_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    }


def planned_facts(config: PreTrainedConfig, architecture: str, plan: WidthPlan | None = None) -> dict[str, Any]:
    """Compute what [`model_facts`] would count, without a model.

    Args:
        config: all of the shape but the widths.
        architecture: stock or student class.
        plan: the widths; default: those of `config`.

    Returns:
        `dict`: as [`model_facts`], in float32.
    """
    plan = plan or teacher_plan(config)
    stock_name = "BertForMaskedLM" if architecture == "BertForPreTraining" else architecture.removeprefix("Homo")
    cost = plan_cost(plan, config, head=_COST_HEADS[stock_name])
    return {
        "architecture": architecture,
        "plan": plan.to_dict(),
        "num_hidden_layers": len(plan.layers),
        "num_parameters": cost.num_parameters,
        "num_encoder_parameters": plan_cost(plan, config).num_parameters,
        "encoder_macs": cost.encoder_macs,
        "size_bytes": cost.size_bytes,
    }


def forms_facts(student: PreTrainedModel) -> dict[str, Any]:
    """What the student costs in each export format, where that differs.

    Args:
        student: `HomoBertForX`.

    Returns:
        `dict`: `compact` and `padded`, each as [`model_facts`] has it; `padded` is `None` where no stock BERT can hold
        the student, and both are left out where padding changes nothing.
    """
    plan = teacher_plan(student.config)
    try:
        padded = plan.padded()
    except ValueError:
        padded = None
    if padded == plan:
        return {}
    architecture = type(student).__name__
    stock_name = architecture.removeprefix("Homo")
    return {
        "compact": planned_facts(student.config, architecture),
        "padded": planned_facts(student.config, stock_name, padded) if padded else None,
    }


def teacher_facts(config: PreTrainedConfig, architecture: str, *, licence: str) -> dict[str, Any]:
    """What an export says about the teacher.

    Args:
        config: the teacher's; its `name_or_path` says where it came from.
        architecture: the teacher's class.
        licence: licence identifier, or `"unknown"`.

    Returns:
        `dict`: `name` (of a folder only its last part), `hub_id` (`None` where it is no name on the Hub), `licence`
        and what [`planned_facts`] computes.
    """
    name = config.name_or_path
    is_folder = bool(name) and Path(name).is_dir()
    return {
        # The path of a folder is this machine's business.
        "name": (Path(name).resolve().name if is_folder else name) or "an unnamed teacher",
        "hub_id": name if not is_folder and _is_hub_id(name) else None,
        "licence": licence,
        **planned_facts(config, architecture),
    }


def cost_fractions(student: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> dict[str, float]:
    """Each cost of the student as a fraction of the teacher's.

    Args:
        student: what [`model_facts`] returned.
        teacher: what [`teacher_facts`] returned, or `None`.

    Returns:
        `dict[str, float]`: cost → fraction, rounded to 4 digits; empty without a teacher.
    """
    return {} if teacher is None else {name: round(student[name] / teacher[name], 4) for name in COSTS}


def run_facts(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check what a run adds and make plain JSON values of it.

    Args:
        facts: any of `RUN_SECTIONS`, each a mapping of names to plain values.

    Returns:
        `dict`: the same sections; settings that hold access tokens or say where a machine keeps its files are left
        out, and of other paths that exist here only the last part is kept.

    Raises:
        ValueError: an unknown section.
    """
    sections = dict(facts or {})
    for name, section in sections.items():
        if name not in RUN_SECTIONS:
            raise ValueError(
                f"facts has the unknown section {name!r}; expected some of {', '.join(RUN_SECTIONS)}; "
                f"nearest valid: {nearest_name(name, RUN_SECTIONS)!r}"
            )
        if not isinstance(section, Mapping):
            raise ValueError(f"facts[{name!r}]={section!r} is no mapping; expected names and plain values")
    settings = sections.get("settings", {})
    sections["settings"] = {
        name: _without_folders(value)
        for name, value in settings.items()
        if not name.endswith("token") and name not in _PRIVATE_SETTINGS
    }
    return {name: _plain(section) for name, section in sections.items() if section}


def version_facts() -> dict[str, str]:
    """Which software wrote an export.

    Returns:
        `dict[str, str]`: name → version.
    """
    return {
        "homodistil_hf": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def probe_inputs(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Two fixed sequences of up to 16 tokens, one of them padded, with both segments where the model has them.

    Args:
        config: vocabulary, positions and segments of the model.

    Returns:
        `dict`: `input_ids`, `attention_mask` and `token_type_ids`, each `(2, tokens)` int64.
    """
    num_tokens = min(_NUM_PROBE_TOKENS, config.max_position_embeddings)
    # A prime stride spreads the tokens over any vocabulary.
    input_ids_BT = (torch.arange(2 * num_tokens) * 7919 + 1).remainder(config.vocab_size).view(2, num_tokens)
    attention_mask_BT = torch.ones_like(input_ids_BT)
    attention_mask_BT[1, 3 * num_tokens // 4 :] = 0
    segments = torch.arange(num_tokens) >= num_tokens // 2
    token_type_ids_BT = (segments.long() * (config.type_vocab_size > 1)).expand(2, -1).contiguous()
    return {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT, "token_type_ids": token_type_ids_BT}


def all_logits(outputs: ModelOutput) -> torch.Tensor:
    """The logits of any head as one tensor.

    Args:
        outputs: what a model with a head returned.

    Returns:
        `torch.Tensor`: `logits`, or `(batch, tokens, 2)` start and end logits of a question-answering head.
    """
    if "start_logits" in outputs:
        return torch.stack((outputs["start_logits"], outputs["end_logits"]), dim=-1)
    return outputs["logits"]


def probe_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Logits of a model on [`probe_inputs`], evenly picked.

    Args:
        model: in evaluation mode.

    Returns:
        `dict`: the inputs as lists; `positions` in the flattened logits and the `logits` there, up to 64.

    Raises:
        ValueError: logits are not finite.
    """
    inputs = probe_inputs(model.config)
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


def file_facts(folder: Path) -> dict[str, Any]:
    """Digest and size of every file of an export, but the facts and the card.

    Args:
        folder: the export.

    Returns:
        `dict`: path inside the folder → `sha256`, `size_bytes`; sorted.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "size_bytes": path.stat().st_size}
        for path in paths
        if path.name not in (FACTS_FILE, CARD_FILE)
    }


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `facts.json`.

    Args:
        folder: the export.
        facts: plain JSON values.
    """
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / FACTS_FILE).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Read `facts.json`.

    Args:
        folder: the export.

    Returns:
        `dict`: its content.

    Raises:
        ValueError: the file is missing, or no facts.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        raise ValueError(f"folder={str(folder)!r} has no {FACTS_FILE}; expected an export of this package")
    facts = read_json(path, f"{FACTS_FILE} in folder={str(folder)!r}")
    if not isinstance(facts, dict) or facts.get("facts_version") != FACTS_VERSION:
        raise ValueError(
            f"{FACTS_FILE} in folder={str(folder)!r} is not of version {FACTS_VERSION}; export again with this package"
        )
    return facts


def read_export_facts(folder: Path) -> dict[str, Any]:
    """Read `facts.json` for use: its sections are there and of the right types.

    Args:
        folder: the export.

    Returns:
        `dict`: its content.

    Raises:
        ValueError: see [`read_facts`]; also a section that is missing or holds something else.
    """
    facts = read_facts(folder)
    forms = facts.get("forms")
    expected = {name: isinstance(facts.get(name), dict) for name in FACTS_SECTIONS}
    expected |= {name: isinstance(facts.get(name, {}), dict) for name in RUN_SECTIONS}
    expected[BENCHMARKS] = expected[BENCHMARKS] and _are_benchmarks(facts.get(BENCHMARKS, {}))
    expected["forms"] = expected["forms"] and (not forms or _is_form(forms.get("compact")))
    if wrong := [name for name, is_right in expected.items() if not is_right]:
        raise ValueError(
            f"{FACTS_FILE} in folder={str(folder)!r} has {wrong[0]}={shown(facts.get(wrong[0]))}, which no export "
            "has; export again"
        )
    return facts


def stated_teacher(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What facts say about the teacher, ready to be told again by another export.

    Args:
        facts: what [`read_export_facts`] returned.

    Returns:
        `dict`, or None where they don't know it.

    Raises:
        ValueError: the section is not one that [`teacher_facts`] has made.
    """
    teacher = facts.get("teacher")
    if teacher is not None and not _is_teacher(teacher):
        raise ValueError(f"{FACTS_FILE} has teacher={shown(teacher)}, which no export has; export again")
    return teacher


def has_costs(section: Mapping[str, Any]) -> bool:
    """Whether a section states all four `COSTS`.

    Args:
        section: of a teacher or a student.

    Returns:
        `bool`: each a whole number above 0.
    """
    costs = [section.get(name) for name in COSTS]
    return all(isinstance(cost, int) and not isinstance(cost, bool) and cost > 0 for cost in costs)


def _are_benchmarks(section: Mapping[str, Any]) -> bool:
    """Whether tasks and discrepancy have what the card and tables of models say of them."""
    tasks, discrepancy = section.get("tasks", {}), section.get("discrepancy", {})
    if not isinstance(tasks, dict) or not isinstance(discrepancy, dict):
        return False
    sources = discrepancy.get("eval_data", [])
    is_named = isinstance(sources, list) and all(isinstance(source, str) for source in sources)
    return is_named and all(map(_is_task, tasks.values()))


def _is_task(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    types: dict[str, type] = {"task": str, "num_train_rows": int, "num_available_rows": int}
    types |= {"seeds": list, "scores": list, "conditions": dict, "metrics": dict, "score": dict}
    if not all(isinstance(found.get(name), kind) for name, kind in types.items()):
        return False
    spreads = [found["score"], *found["metrics"].values()]
    return all(isinstance(spread, dict) and _is_spread(spread) for spread in spreads) and all(
        isinstance(score, int | float) for score in found["scores"]
    )


def _is_spread(spread: Mapping[str, Any]) -> bool:
    return isinstance(spread.get("mean"), int | float) and isinstance(spread.get("std"), int | float | None)


def _is_form(section: Any) -> bool:
    return isinstance(section, dict) and isinstance(section.get("plan"), dict)


def _is_teacher(section: Any) -> bool:
    if not isinstance(section, dict) or not has_costs(section):
        return False
    hub_id = section.get("hub_id")
    names = isinstance(section.get("name"), str) and isinstance(section.get("licence"), str)
    return names and (hub_id is None or (isinstance(hub_id, str) and _is_hub_id(hub_id)))


def _without_folders(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and any(separator in value for separator in "/\\") and _is_local(value):
        return Path(value).name
    return value


def _is_local(value: str) -> bool:
    path = Path(value).expanduser()
    try:
        return path.is_absolute() or value.startswith((".", "~")) or path.exists()
    except (OSError, ValueError):  # too long, or with a NUL: no path
        return False


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        # JSON has no nan and no inf.
        return float(value) if math.isfinite(value) else str(float(value))
    return str(value)
