"""What a checkpoint of a pruning run holds beside the model: projections, masks, scores, guard, counters.

Tensors go to safetensors, everything else to JSON. That a checkpoint is complete and unchanged has been checked before
anything is read here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..files.folders import naming_the_file
from ..files.messages import shown
from ..files.strict_json import read_json_object, write_json
from ..files.tensors import load_tensors
from ..models.families.family import PROJECTIONS
from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.resizing import replace_parameters
from ..models.units import encoder_groups
from ..models.widths import teacher_plan
from .pruner import Pruner
from .saved_state_checks import check_pruner_tensors, check_pruner_values

WEIGHTS_FILE = "model.safetensors"
PROJECTIONS_FILE = "projections.safetensors"
STATE_TENSORS_FILE = "pruning_state.safetensors"
STATE_FILE = "pruning_state.json"
METHOD_KEY = "method"
"""Where a checkpoint's state says which method trains the student."""


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
    check_pruner_tensors(tensors, encoder_groups(model), parameters, full=pruner.full, label=label)
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
    check_pruner_values(state, label)
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
