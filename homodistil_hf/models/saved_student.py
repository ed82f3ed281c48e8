"""The student's part of a checkpoint: state in JSON, weights, projections; written and read back.

files/checkpoints.py has checked that the checkpoint is complete and unchanged. training/ decides what a run does with
its values.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..files.checkpoints import PROJECTIONS_FILE, QUERIES_FILE, STATE_FILE
from ..files.folders import naming_the_file
from ..files.messages import join_some
from ..files.strict_json import fits, read_json_object
from ..files.tensors import WEIGHTS_FILE, load_tensors
from .architectures.architecture import PROJECTIONS
from .architectures.modeling_layerwise import LayerwiseModel
from .conversion import as_stock_reads_it
from .resizing import replace_parameters
from .widths import DEPTH_KEY, WidthPlan, widths_of

_PREFIX = f"{PROJECTIONS}."
_STATE = {
    **{"method": str, "student": str | None, "card": dict, "full": dict, "plan": dict},
    **{"is_finished": bool, "kept_heads": list, "settings": dict, "logs": dict},
    "pruner?": {
        "settings": dict,
        "plan_reached": bool,
        "innermost?": dict,
        "gates?": {"kept": list, "value": int | float},
    },
}


def read_state(folder: str | Path) -> dict[str, Any]:
    """Return the JSON state of a `checkpoint-N`, with `pruner` if the method prunes while it trains.

    Raises:
        ValueError: the folder is no checkpoint of a run, or holds a state that no run writes.
        OSError: it can't be read.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise ValueError(f"folder={str(folder)!r} has no {STATE_FILE}; expected a checkpoint-N of a distillation run")
    label = f"{STATE_FILE} in folder={str(folder)!r}"
    state = read_json_object(path, label)
    if not fits(state, _STATE):
        raise ValueError(f"{label} holds a state that no run writes; take another checkpoint")
    return state


def plan_in(state: Mapping[str, Any], name: str, num_hidden_layers: int) -> WidthPlan:
    """Return the plan of a name in the result of [`read_state`], of a student with so many layers now."""
    values = state[name]
    return WidthPlan.from_dict(values, values.get(DEPTH_KEY, num_hidden_layers))


def weights_without_projections(model: LayerwiseModel) -> dict[str, torch.Tensor]:
    """Return the student's own weights: name → tensor."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(_PREFIX)}


def save_projections(folder: Path, model: LayerwiseModel) -> None:
    """Write the projections of a student to a file beside its weights."""
    projections = {
        name.removeprefix(_PREFIX): tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(_PREFIX)
    }
    with naming_the_file(folder, file=PROJECTIONS_FILE):
        save_file(projections, folder / PROJECTIONS_FILE)


def save_queries(folder: Path, model: nn.Module) -> None:
    """Write the queries that the weights beside have scaled, if any, by [`as_stock_reads_it`]."""
    with as_stock_reads_it(model) as exact:
        if exact:
            with naming_the_file(folder, file=QUERIES_FILE):
                save_file({name: values.cpu() for name, values in exact.items()}, folder / QUERIES_FILE)


def exact_queries(folder: Path) -> dict[str, torch.Tensor]:
    """Read what [`save_queries`] wrote; empty for a checkpoint without that file."""
    return load_tensors(folder / QUERIES_FILE) if (folder / QUERIES_FILE).is_file() else {}


def load_student(folder: Path, model: LayerwiseModel, *, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Give a student of any widths the widths, weights and projections of a checkpoint, in place.

    The optimizer, if there is one already, is moved to the new parameters, without state.

    Raises:
        ValueError: parameters are missing or unknown.
    """
    # the weights may hold scaled queries; the exact ones replace them
    tensors = load_tensors(folder / WEIGHTS_FILE) | exact_queries(folder)
    tensors |= {_PREFIX + name: tensor for name, tensor in load_tensors(folder / PROJECTIONS_FILE).items()}
    expected = {name for name, _ in model.named_parameters()}
    # tied names and buffers are no parameters, but may be in the file
    missing, unknown = expected - tensors.keys(), tensors.keys() - expected - model.state_dict().keys()
    if missing or unknown:
        raise ValueError(
            f"checkpoint {folder} lacks {_listed(missing)} and has unknown "
            f"{_listed(unknown)}; resume with the model, teacher and loss weights of the run's start"
        )
    config = type(model.config).from_pretrained(folder)
    # pairs before widths: new widths rebuild the frequencies of these pairs
    if hasattr(config, "rotary_pairs"):
        model.config.rotary_pairs, model.config.rotary_head_dim = config.rotary_pairs, config.rotary_head_dim
    replace_parameters(model, tensors, plan=widths_of(config), optimizer=optimizer)
    for name, buffer in model.named_buffers():
        if name.startswith(_PREFIX):
            buffer.copy_(tensors[name])


def first_nonfinite_tensor(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, scores: Mapping[str, torch.Tensor]
) -> str | None:
    """Return the name of a tensor of model, optimizer or scores that is not finite, or None if all are."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {f"parameter {name}": parameter for parameter, name in names.items()}
    tensors |= {f"score {name}": values for name, values in scores.items()}
    for parameter, state in (optimizer.state if optimizer is not None else {}).items():
        tensors |= {f"{kind} of {names.get(parameter)}": v for kind, v in state.items() if torch.is_tensor(v)}
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def _listed(names: Collection[str]) -> str:
    return f"[{join_some(map(repr, names))}]" if names else "nothing"
