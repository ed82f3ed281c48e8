"""Least-squares compensation: what dropped units carried is folded into the kept ones as the masks change.

A pass before the change records what every linear map and every LayerNorm gave; a pass after it refits their kept
weights, one after the other in the order of the forward pass, so that each also makes up for what is left of the
errors before it. The optimizer's moments stay as they are. Measured by `compensation.py` and found not to pay once the
student is trained on, so it is no part of the package.

Shapes: T rows (tokens), I inputs, O outputs, H hidden channels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from homodistil_hf.models.families.family import PROJECTIONS
from homodistil_hf.models.families.modeling_homobert import (
    HomoBertLayerNorm,
    HomoBertOutput,
    HomoBertPreTrainedModel,
    HomoBertSelfOutput,
)
from homodistil_hf.models.units import Group, UnitTensors, kept_indices

Recorded = dict[str, tuple[torch.Tensor, torch.Tensor]]

_RESIDUAL = (HomoBertSelfOutput, HomoBertOutput)

RIDGE = 0.1
"""Ridge penalty as a share of the inputs' mean variance."""


def least_squares(moments: torch.Tensor, num_inputs: int, *, ridge: float, with_bias: bool) -> torch.Tensor:
    """The change of a linear map that makes up for its residuals.

    Minimises E‖Δx + c − r‖² + ridge·(v·‖Δ‖² + ‖c̄‖²), v the inputs' mean variance and c̄ the change of the mean output,
    so that an infinite ridge changes nothing.

    Args:
        moments: `(I + 1, I + 1 + O)`, what `weighted_moments` gave.
        num_inputs: I.
        ridge: > 0.
        with_bias: whether there is a c.

    Returns:
        `torch.Tensor`: float64 `(O, I + 1)`, Δ and in the last column c (0 without a bias).

    Example:
    ```python
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> moments = weighted_moments(x, 3 * x + 1, torch.ones(3))
    >>> [round(value, 4) for value in least_squares(moments, 1, ridge=1e-9, with_bias=True)[0].tolist()]
    [3.0, 1.0]

    ```
    """
    means = moments.double() / moments[num_inputs, num_inputs].double().clamp(min=1e-30)
    mean_x, mean_r = means[num_inputs, :num_inputs], means[num_inputs, num_inputs + 1 :]
    second_xx, second_xr = means[:num_inputs, :num_inputs], means[:num_inputs, num_inputs + 1 :]
    if with_bias:
        second_xx = second_xx - torch.outer(mean_x, mean_x)
        second_xr = second_xr - torch.outer(mean_x, mean_r)
    penalty = ridge * second_xx.diagonal().mean().clamp(min=1e-12)
    delta_IO = torch.linalg.solve(second_xx + penalty * torch.eye(num_inputs).to(second_xx), second_xr)
    bias_O = mean_r / (1 + ridge) - mean_x @ delta_IO if with_bias else torch.zeros_like(mean_r)
    return torch.cat([delta_IO, bias_O[None]]).T


def weighted_moments(inputs_TI: torch.Tensor, residuals_TO: torch.Tensor, weights_T: torch.Tensor) -> torch.Tensor:
    """Sums over rows of all that a linear fit needs: inputs and a constant 1 times inputs, constant and residuals.

    Args:
        inputs_TI: float32.
        residuals_TO: float32, what the outputs lack.
        weights_T: float32 ≥ 0.

    Returns:
        `torch.Tensor` of shape `(I + 1, I + 1 + O)`; sums of several batches may be added up.
    """
    with_one = torch.cat([inputs_TI, torch.ones_like(inputs_TI[:, :1])], dim=1)
    return (with_one * weights_T[:, None]).T @ torch.cat([with_one, residuals_TO], dim=1)


@contextmanager
def compensation(
    model: HomoBertPreTrainedModel,
    groups: Mapping[str, Group],
    masks: UnitTensors,
    *,
    batch: Mapping[str, Any],
    ridge: float = RIDGE,
) -> Iterator[None]:
    """Apply masks to the student inside this context, and its kept weights are refitted when it closes.

    Args:
        model: the student before the change.
        groups: its groups.
        masks: the new masks.
        batch: inputs of the model's forward; the fit is taken on them.
        ridge: penalty on changes, a share > 0 of the inputs' mean variance.
    """
    was_training = model.training
    model.eval()
    try:
        recorded = _record(model, batch)
        yield
        fit = _Fit(kept_indices(dict(groups), masks), recorded, rows=_token_rows(batch), ridge=ridge)
        _forward_with(model, batch, lambda name, module: module.register_forward_pre_hook(fit.hook(name, module)))
    finally:
        model.train(was_training)


class _Fit:
    """The hooks of the second pass: each changes its module's weights just before the module is computed."""

    def __init__(
        self,
        kept: Mapping[str, Mapping[int, torch.Tensor]],
        recorded: Recorded,
        *,
        rows: torch.Tensor | None,
        ridge: float,
    ):
        self.kept, self.recorded, self.rows, self.ridge = kept, recorded, rows, ridge

    def hook(self, name: str, module: nn.Module) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        if isinstance(module, HomoBertLayerNorm):
            return lambda module, inputs: self._norm(name, module, inputs[0])
        if isinstance(module, _RESIDUAL):
            return lambda module, inputs: self._residual(name, module, *inputs)
        return lambda module, inputs: self._linear(name, module, inputs[0], self.recorded[name][1])

    def _residual(self, name: str, module: Any, inputs: torch.Tensor, residual: torch.Tensor) -> None:
        """The sum with the residual stream shall be as before, each token counted as LayerNorm will scale it."""
        before, _ = self.recorded[f"{name}.LayerNorm"]
        weights = 1 / before.var(-1).clamp(min=1e-12)
        self._linear(f"{name}.dense", module.dense, inputs, before - residual, weights)

    def _linear(
        self,
        name: str,
        module: nn.Linear,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> None:
        outs = self._indices(f"{name}.weight", 0, module.weight)
        ins = self._indices(f"{name}.weight", 1, module.weight)
        weight_OI = module.weight[outs][:, ins]
        bias_O = module.bias[outs] if module.bias is not None else 0.0
        inputs_TI = self._select(inputs)[:, ins]
        residuals_TO = self._select(targets)[:, outs] - inputs_TI @ weight_OI.T - bias_O
        weights_T = inputs_TI.new_ones(len(inputs_TI)) if weights is None else self._select(weights[..., None])[:, 0]
        moments = weighted_moments(inputs_TI, residuals_TO, weights_T)
        change = least_squares(moments, len(ins), ridge=self.ridge, with_bias=module.bias is not None)
        change = change.to(module.weight.dtype)
        module.weight[outs[:, None], ins] = weight_OI + change[:, :-1]
        if module.bias is not None:
            module.bias[outs] += change[:, -1]

    def _norm(self, name: str, module: HomoBertLayerNorm, inputs: torch.Tensor) -> None:
        """One gain and one shift a channel."""
        channels = self._indices(f"{name}.weight", 0, module.weight)
        inputs_TH = self._select(inputs)[:, channels]
        normed_TH = nn.functional.layer_norm(inputs_TH, (len(channels),), eps=module.eps)
        targets_TH = self._select(self.recorded[name][1])[:, channels]
        gain, shift = module.weight[channels], module.bias[channels]
        residuals_TH = targets_TH - normed_TH * gain - shift
        mean_x, mean_r = normed_TH.double().mean(0), residuals_TH.double().mean(0)
        second_xx = normed_TH.double().square().mean(0)
        second_xr = (normed_TH.double() * residuals_TH).mean(0)
        variance = second_xx - mean_x.square()
        penalty = self.ridge * variance.mean().clamp(min=1e-12)
        delta = (second_xr - mean_x * mean_r) / (variance + penalty)
        change = mean_r / (1 + self.ridge) - delta * mean_x
        module.weight[channels] = gain + delta.to(gain.dtype)
        module.bias[channels] = shift + change.to(shift.dtype)

    def _indices(self, parameter: str, dim: int, tensor: torch.Tensor) -> torch.Tensor:
        mask = self.kept.get(parameter, {}).get(dim)
        if mask is None:
            return torch.arange(tensor.shape[dim], device=tensor.device)
        return mask.nonzero().flatten().to(tensor.device)

    def _select(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows of tokens; padding is left out, heads that see other rows keep them all."""
        rows = tensor.flatten(0, -2)
        return rows if self.rows is None or tensor.dim() < 3 else rows[self.rows]


def _record(model: HomoBertPreTrainedModel, batch: Mapping[str, Any]) -> Recorded:
    """Module name → what went into it and what came out."""
    recorded: Recorded = {}

    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if not isinstance(module, _RESIDUAL):
                recorded[name] = inputs[0], output

        return record

    _forward_with(model, batch, lambda name, module: module.register_forward_hook(hook(name)))
    return recorded


@torch.no_grad()
def _forward_with(
    model: HomoBertPreTrainedModel, batch: Mapping[str, Any], register: Callable[[str, nn.Module], Any]
) -> None:
    """One forward pass, in float32, with a hook on everything that is refitted."""
    # Maps into the residual stream are refitted by the module that knows the stream; the decoder's weights are the
    # embeddings', too.
    others = {module.dense for module in model.modules() if isinstance(module, _RESIDUAL)}
    others.add(model.get_output_embeddings())
    handles = [
        register(name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, HomoBertLayerNorm, *_RESIDUAL)) and module not in others
    ]
    try:
        # The class's forward, so that no autocast wrapper is in between.
        with torch.autocast(model.device.type, enabled=False):
            _project(model, type(model).forward(model, **batch, output_hidden_states=True).hidden_states)
    finally:
        for handle in handles:
            handle.remove()


def _project(model: HomoBertPreTrainedModel, states: tuple[torch.Tensor, ...]) -> None:
    """Projections are no part of the model's forward; they see what they see in training."""
    projections: Any = dict(model.named_children()).get(PROJECTIONS)
    if projections is None:
        return
    if projections.embedding is not None:
        projections.embedding(states[0])
    for projection, state in zip(projections.hidden, states[1:], strict=False):
        projection(state)


def _token_rows(batch: Mapping[str, Any]) -> torch.Tensor | None:
    mask_BT = batch.get("attention_mask")
    return None if mask_BT is None else mask_BT.flatten().nonzero().flatten()
