"""What a checkpoint of a pruning run holds beside the model: projections, masks, scores, guard, counters.

Tensors go to safetensors, everything else to JSON. That a checkpoint is complete and unchanged has been checked before
anything is read here.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..files.checkpoints import PROJECTIONS_FILE, STATE_FILE, STATE_TENSORS_FILE
from ..files.folders import naming_the_file
from ..files.messages import shown
from ..files.strict_json import is_number, is_whole, read_json_object, write_json
from ..files.tensors import WEIGHTS_FILE, load_tensors
from ..models.families.family import PROJECTIONS
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.resizing import replace_parameters
from ..models.units import Group, encoder_groups
from ..models.widths import WidthPlan, teacher_plan
from .guard import NAMES_OF_NONE, STATE_NAMES
from .pruner import Pruner, PruningSettings
from .scores import METRICS

METHOD_KEY = "method"
"""Where a checkpoint's state says which method trains the student."""
_TYPES = {
    "full": dict,
    "target": dict,
    "settings": dict,
    "plan_reached": bool,
    "waypoints": list,
    "num_waypoints_reached": int,
    "rests_until_step": int,
    "num_compactions": int,
}
_WORDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a whole number"}
_OTHER_AVERAGE = {"sensitivity": "uncertainty", "uncertainty": "sensitivity"}  # PLATON's, kept for every parameter


def weights_without_projections(model: HomoBertPreTrainedModel) -> dict[str, torch.Tensor]:
    """The student's own weights.

    Args:
        model: a student, with or without projections.

    Returns:
        `dict`: name → tensor.
    """
    return {name: t for name, t in model.state_dict().items() if not name.startswith(f"{PROJECTIONS}.")}


def save_run_state(folder: Path, model: HomoBertPreTrainedModel, pruner: Pruner, *, extra: Mapping[str, Any]) -> None:
    """Write all that `load_run_state` needs beside the weights.

    Args:
        folder: of the checkpoint.
        model: the student.
        pruner: its pruning state.
        extra: JSON values of the trainer's own.
    """
    projections = {
        name.removeprefix(f"{PROJECTIONS}."): tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(f"{PROJECTIONS}.")
    }
    with naming_the_file(folder, file=PROJECTIONS_FILE):
        save_file(projections, folder / PROJECTIONS_FILE)
    with naming_the_file(folder, file=STATE_TENSORS_FILE):
        save_file(pruner.state_tensors(), folder / STATE_TENSORS_FILE)
    state = {"pruner": pruner.state_dict(), "trainer": dict(extra)}
    write_json(folder / STATE_FILE, state, sort_keys=True)


def poisoned_tensor(
    model: HomoBertPreTrainedModel, pruner: Pruner, optimizer: torch.optim.Optimizer | None
) -> str | None:
    """What a checkpoint must not be made of: something that is not finite.

    Args:
        model: the student.
        pruner: its pruning state.
        optimizer: with its moments.

    Returns:
        `str`: the name of one such tensor, or None.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {f"parameter {name}": parameter for parameter, name in names.items()}
    tensors |= {f"score {name}": values for name, values in pruner.scores.state.items()}
    for parameter, state in (optimizer.state if optimizer is not None else {}).items():
        tensors |= {f"{kind} of {names.get(parameter)}": v for kind, v in state.items() if torch.is_tensor(v)}
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def load_run_state(
    folder: Path,
    model: HomoBertPreTrainedModel,
    pruner: Pruner,
    *,
    method: str | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, Any]:
    """Bring a student and its pruning state back to a checkpoint, whatever widths they have now.

    Args:
        folder: of the checkpoint.
        model: changed in place: it gets the checkpoint's widths and weights.
        pruner: of `model`.
        method: of the run; checkpoints that don't tell theirs are of any. Default: any.
        optimizer: re-pointed to the new parameters, without state; None before it exists.

    Returns:
        `dict`: the trainer's own values.

    Raises:
        ValueError: parameters are missing or not known, or the checkpoint belongs to another run or method.
    """
    state = read_state_file(folder)
    found = state["trainer"].get(METHOD_KEY, method)
    if method is not None and found != method:
        raise ValueError(
            f"checkpoint {folder} is of method={shown(found)}, this run of method={method!r}; resume with that "
            "method, or name another output_dir"
        )
    tensors = load_tensors(folder / WEIGHTS_FILE)
    projections = load_tensors(folder / PROJECTIONS_FILE)
    tensors |= {f"{PROJECTIONS}.{name}": tensor for name, tensor in projections.items()}
    _check_names(folder, model, tensors)
    plan = teacher_plan(type(model.config).from_pretrained(folder))
    replace_parameters(model, tensors, plan=plan, optimizer=optimizer)
    load_pruner_state(pruner, state["pruner"], load_tensors(folder / STATE_TENSORS_FILE), label=f"checkpoint {folder}")
    return state["trainer"]


def load_pruner_state(
    pruner: Pruner, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], *, label: str
) -> None:
    """Bring a pruner back to a checkpoint, once the state has been found to fit the student.

    Args:
        pruner: its student has the checkpoint's widths.
        state: the pruner's part of the state file.
        tensors: masks, scores and head numbers.
        label: first words of every message.

    Raises:
        ValueError: the state belongs to another student, or no run has written it.
    """
    model = pruner.model
    parameters = dict(model.named_parameters())
    _check_tensors(tensors, encoder_groups(model), parameters, full=pruner.full, label=label)
    try:
        pruner.load_state(state, tensors)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{label} has a pruning state that can't be used ({type(error).__name__}: {error}); take another one"
        ) from error


def read_state_file(folder: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint's state.

    Args:
        folder: `checkpoint-N`.

    Returns:
        `dict` with `pruner` and `trainer`.

    Raises:
        ValueError: the folder is no checkpoint of a pruning run.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise ValueError(
            f"folder={str(folder)!r} has no {STATE_FILE}; expected a checkpoint-N of a HomoDistilTrainer run"
        )
    label = f"{STATE_FILE} in folder={str(folder)!r}"
    state = read_json_object(path, label)
    _check_values(state, label)
    return state


def _check_names(folder: Path, model: HomoBertPreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    expected = {name for name, _ in model.named_parameters()}
    aliases = {name for name in model.state_dict() if name not in expected}
    missing, unknown = expected - tensors.keys(), tensors.keys() - expected - aliases
    if missing or unknown:
        raise ValueError(
            f"checkpoint {folder} lacks {sorted(missing) or 'nothing'} and has unknown "
            f"{sorted(unknown) or 'nothing'}; resume with the model, teacher and loss weights of the run's "
            "start"
        )


def _check_values(state: Mapping[str, Any], label: str) -> None:
    """Digests say that a checkpoint is whole, not who wrote it: names, types and ranges, before it is used."""
    pruner = state.get("pruner")
    if not isinstance(pruner, dict) or not isinstance(state.get("trainer"), dict):
        raise ValueError(f"{label} has {shown(sorted(state))}; expected the objects pruner and trainer")
    for name, kind in _TYPES.items():
        _check_type(name, pruner.get(name), kind, label)
    guard, settings, known = pruner.get("guard"), pruner["settings"], asdict(PruningSettings())
    if guard is not None:
        _check_type("guard", guard, dict, label)
        _check_keys(guard, set(STATE_NAMES), f"{label} has guard")
    for name, value in (guard or {}).items():
        if value is not None or name not in NAMES_OF_NONE:
            _check_type(f"guard {name}", value, float, label)
    _check_keys(settings, set(known), f"{label} has settings")
    for name, default in known.items():
        _check_type(f"settings {name}", settings[name], type(default), label)
    in_range = {
        "metric": settings["metric"] in METRICS,
        "width_allocation": settings["width_allocation"] in ("local", "global"),
        "multiple": settings["multiple"] >= 1,
        **{name: 0 <= settings[name] <= 1 for name, default in known.items() if isinstance(default, float)},
        "num_compactions": pruner["num_compactions"] >= 0,
        "num_waypoints_reached": 0 <= pruner["num_waypoints_reached"] <= len(pruner["waypoints"]),
        "rests_until_step": pruner["rests_until_step"] >= 0,
    }
    for name in (name for name, is_valid in in_range.items() if not is_valid):
        raise ValueError(f"{label} has {name}={shown((settings | pruner)[name])}, which no run has written")


def _check_type(name: str, value: Any, kind: type, label: str) -> None:
    valid = is_number(value) if kind is float else is_whole(value) if kind is int else isinstance(value, kind)
    if not valid:
        raise ValueError(f"{label} has {name}={shown(value)}; expected {_WORDS.get(kind, 'a number')}")


def _check_keys(values: Mapping[str, Any], known: set[str], label: str) -> None:
    if different := sorted(values.keys() ^ known):
        raise ValueError(f"{label}={shown(values)}; {shown(different[0])} is unknown or missing")


def _check_tensors(
    tensors: Mapping[str, torch.Tensor],
    groups: Mapping[str, Group],
    parameters: Mapping[str, torch.Tensor],
    *,
    full: WidthPlan,
    label: str,
) -> None:
    """Masks, scores and head numbers: those of this student, and such as a run leaves."""
    sizes = {name: group.num_units for name, group in groups.items()}
    expected = {f"mask.{name}" for name in groups} | {f"heads.{layer}" for layer in range(len(full.layers))}
    if missing := sorted(expected - tensors.keys()):
        raise ValueError(f"{label} lacks {shown(missing)}")
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        shape, dtype = _expected(kind, rest, sizes, parameters)
        if (name not in expected and kind != "score") or tuple(tensor.shape) != shape or tensor.dtype is not dtype:
            raise ValueError(
                f"{label} has {shown(name)} of shape {tuple(tensor.shape)}, {tensor.dtype}; expected masks, scores "
                f"and heads of the student's widths (masks don't fit: {shown(sizes)})"
            )
        if kind == "mask" and not bool(tensor.any()):
            raise ValueError(f"{label} has {shown(name)} that keeps no unit; expected at least one")
        average, _, parameter = rest.partition(".")
        if average in _OTHER_AVERAGE and f"score.{_OTHER_AVERAGE[average]}.{parameter}" not in tensors:
            raise ValueError(f"{label} has {shown(name)} without its other average; expected both")
    for layer, widths in enumerate(full.layers):
        _check_heads(tensors, layer, widths.num_attention_heads, label)


def _check_heads(tensors: Mapping[str, torch.Tensor], layer: int, num_full: int, label: str) -> None:
    numbers, kept = tensors[f"heads.{layer}"], tensors[f"mask.head.{layer}"]
    if not bool((numbers.diff() > 0).all()) or int(numbers[0]) < 0 or int(numbers[-1]) >= num_full:
        raise ValueError(
            f"{label} has heads.{layer}={shown(numbers.tolist())}; expected rising numbers below {num_full}"
        )
    masks = (tensors[f"mask.{kind}.{layer}"].view(len(kept), -1)[kept] for kind in ("query_key", "value_output"))
    widths = [mask.sum(1).tolist() for mask in masks]
    if len({*widths[0], *widths[1]}) != 1 or widths[0][0] == 0:
        raise ValueError(f"{label} keeps {shown(widths)} channels of the heads in layer {layer}; expected one number")


def _expected(
    kind: str, rest: str, sizes: Mapping[str, int], parameters: Mapping[str, torch.Tensor]
) -> tuple[tuple[int, ...], torch.dtype]:
    if kind in ("heads", "mask"):
        group, dtype = (f"head.{rest}", torch.int64) if kind == "heads" else (rest, torch.bool)
        return (sizes.get(group, -1),), dtype
    average, _, parameter = rest.partition(".")
    if average in _OTHER_AVERAGE and parameter in parameters:
        return tuple(parameters[parameter].shape), torch.float32
    return (sizes.get(rest, -1),), torch.float32
