"""A user's own optimizer: made to hold the student's parameters, or refused because pruning would break it.

How it follows a compaction is not told here; which of Trainer's own optimizers can is a matter of settings.
"""

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from ..models.families.family import PROJECTIONS

_ROWS, _COLUMNS = 128, 96  # large enough for optimizers that keep small matrices exact and compress large ones


def adopt_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module | None, student: nn.Module) -> None:
    """Point an optimizer that was made for a model to the student that was made from it.

    Parameters are matched by name; what the student lacks is dropped, and its projections join the first group.

    Args:
        optimizer: changed in place, state included.
        model: what the optimizer was made for; None if that is not known.
        student: with its projections.

    Raises:
        ValueError: the optimizer holds parameters that are not the model's.
    """
    names = {} if model is None else {parameter: name for name, parameter in model.named_parameters()}
    own = dict(student.named_parameters())
    for group in optimizer.param_groups:
        unknown = [parameter for parameter in group["params"] if parameter not in names]
        if unknown:
            raise ValueError(
                f"optimizers[0] holds {len(unknown)} parameters that are not those of model, which the student is a "
                "copy of; make it from the parameters of the loaded model that you pass, or give "
                "optimizer_cls_and_kwargs instead"
            )
        for parameter in group["params"]:
            if parameter in optimizer.state and names[parameter] in own:
                optimizer.state[own[names[parameter]]] = optimizer.state.pop(parameter)
        group["params"] = [own[names[parameter]] for parameter in group["params"] if names[parameter] in own]
    projections = [parameter for name, parameter in own.items() if name.startswith(f"{PROJECTIONS}.")]
    optimizer.param_groups[0]["params"].extend(projections)
    for projection in projections:
        optimizer.state.update(_state_from_the_start(optimizer, projection))


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Make sure that an optimizer treats every weight by itself, so that its state can be sliced with the weights.

    It takes three steps on a matrix of which some rows and columns are zero, and on the same matrix without them: what
    is left must move alike.

    Args:
        optimizer: with at least one group; only its settings are used.

    Raises:
        ValueError: a weight's update depends on other weights, zeros included (Muon…), the optimizer keeps state of
            another shape than the weights (Adafactor…), or it can't be tried.
    """
    generator = torch.Generator().manual_seed(0)
    weight, *gradients = torch.randn(4, _ROWS, _COLUMNS, generator=generator).unbind()
    rows, columns = torch.arange(_ROWS) % 3 > 0, torch.arange(_COLUMNS) % 4 > 0
    kept = rows[:, None] & columns
    try:
        masked, state = _stepped(optimizer, weight * kept, [gradient * kept for gradient in gradients])
        compacted, _ = _stepped(
            optimizer, weight[rows][:, columns], [gradient[rows][:, columns] for gradient in gradients]
        )
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(_refusal(optimizer, f"could not be tried ({type(error).__name__}: {error})")) from error
    if not torch.allclose(masked[rows][:, columns], compacted, rtol=1e-5, atol=1e-7):
        raise ValueError(_refusal(optimizer, "updates a weight by what other weights of its matrix do"))
    for name, value in state.items():
        if torch.is_tensor(value) and value.numel() > 1 and value.shape != weight.shape:
            raise ValueError(_refusal(optimizer, f"keeps {name} of another shape than the weights"))


def _stepped(
    optimizer: torch.optim.Optimizer, weight: torch.Tensor, gradients: list[torch.Tensor]
) -> tuple[torch.Tensor, dict]:
    group = optimizer.param_groups[0]
    device = next((parameter.device for parameter in group["params"]), weight.device)
    parameter = nn.Parameter(weight.to(device))
    trial = copy.copy(optimizer)
    trial.param_groups = [group | {"params": [parameter], "lr": 0.1}]
    trial.state = defaultdict(dict, _state_from_the_start(optimizer, parameter))
    for gradient in gradients:
        parameter.grad = gradient.to(device, copy=True)
        trial.step()
    return parameter.detach(), trial.state[parameter]


def _state_from_the_start(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[torch.Tensor, Any]:
    # The others make their state at their first step; Adagrad does so too in newer versions of torch.
    if not isinstance(optimizer, torch.optim.Adagrad):
        return {}
    return dict(torch.optim.Adagrad([parameter], **optimizer.defaults).state)


def _refusal(optimizer: torch.optim.Optimizer, reason: str) -> str:
    return (
        f"optimizer {type(optimizer).__name__} {reason}, so its state can't be pruned with the student; use one that "
        "treats every weight by itself, e.g. optim='adamw_torch'"
    )
