"""One student on its way to a width plan: scores.py → masks.py (which units go next) → compaction.py.

The `Pruner` calls these stages in the order of the paper and keeps the state in between. It needs no Trainer, data or
ranks: the trainer calls it at two moments of an optimizer step.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.resizing import remove_layers
from ..models.units import UnitTensors, encoder_groups
from ..models.widths import WidthPlan, chosen, of_architecture, widest_of, widths_of
from .compaction import compact
from .gates import LayerGates, renumbered
from .masks import choose_masks, first_units, full_masks, mask_digest, scheduled_plan
from .schedule import PruningSchedule
from .scores import METRICS, SensitivityScores


class Pruner:
    """Prunes a student towards a plan.

    Args:
        model: the student; changed in place.
        target: the plan; of fewer layers than the student, see `leave`.
        metric: how units are scored: `sensitivity` or `magnitude`.
        multiple: hidden and FFN widths in between are rounded to this, ≥ 1.
        sensitivity_smoothing: β1 in [0, 1).
        full: the widths of kept fraction 1. Default: the student's now.
        floor: of a nested student the plan of its largest member, which the student keeps; `target` is the smallest's.
    """

    def __init__(
        self,
        model: LayerwiseModel,
        target: WidthPlan,
        *,
        metric: str = "sensitivity",
        multiple: int = 8,
        sensitivity_smoothing: float = 0.999,
        full: WidthPlan | None = None,
        floor: WidthPlan | None = None,
    ):
        self.floor = floor
        self.model = model
        self.target = target
        self.multiple = multiple
        self.settings = {"metric": metric, "multiple": multiple, "sensitivity_smoothing": sensitivity_smoothing}
        self.full = self.innermost = full or widths_of(model.config)
        self.groups = encoder_groups(model)
        self.scores: SensitivityScores = METRICS[metric](self.groups, sensitivity_smoothing=sensitivity_smoothing)
        self.gates: LayerGates | None = None
        self.plan_reached = self.full == target
        self.choices_digest = b""

    @property
    def kept(self) -> WidthPlan:
        """The student's widths now."""
        return widths_of(self.model.config)

    @property
    def pruned(self) -> WidthPlan:
        """The widths that the schedule has reached: the student's, of a nested one those of its innermost units."""
        return self.kept if self.floor is None else self.innermost

    def score(self, *, gradient_scale: float = 1.0, smoothing: float | None = None) -> None:
        """After backward: score the complete, unclipped gradients, until the plan is reached.

        Args:
            gradient_scale: the factor of a gradient scaler in them.
            smoothing: in place of β1.
        """
        if self.scores.needs_gradients and not self.plan_reached:
            parameters = dict(self.model.named_parameters())
            self.scores.update(parameters, self.groups, gradient_scale=gradient_scale, smoothing=smoothing)

    def leave(self, kept: Sequence[int]) -> LayerGates:
        """Say which layers stay, as many as the target has; the others leave little by little, see `fade`."""
        self.gates = LayerGates(self.model, kept)
        return self.gates

    def fade(self, step: int, schedule: PruningSchedule) -> None:
        """Between two steps, before `step` and `remove_layers`: set g of the layers that leave, 1 − p(t).

        Args:
            step: completed optimizer steps.
            schedule: the run's.
        """
        if self.gates is not None and not self.gates.are_removed:
            self.gates.move_to(1.0 - schedule.progress(step))

    def remove_layers(self, gates: LayerGates, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Remove the layers that leave by its gates, whatever their g; the optimizer loses their parameters."""
        remove_layers(self.model, gates.kept, optimizer=optimizer)
        gates.remove()
        # widths, groups and scores of the layers that are left; the target already has no others
        self.full = chosen(self.full, gates.kept)
        self.target = of_architecture(self.target, self.kept)
        self.groups = encoder_groups(self.model)
        self.scores.state = renumbered(self.scores.state, self.groups, gates.kept)

    def step(
        self, step: int, schedule: PruningSchedule, *, optimizer: torch.optim.Optimizer | None = None
    ) -> UnitTensors | None:
        """Between two steps, if the schedule asks for it: choose the units that stay and remove the others.

        Args:
            step: completed optimizer steps.
            schedule: the run's.
            optimizer: moved to the new parameters.

        Returns:
            The applied masks, over the units before; None if nothing changed.
        """
        if self.plan_reached or not schedule.is_due(step):
            return None
        progress, target = schedule.progress(step), self.target
        if self.gates is not None and not self.gates.are_removed:
            # layers that are leaving have the widths of the one before them that stays: the last of the staying ones
            # up to them, or the first
            number_before = [sum(one <= layer for one in self.gates.kept) for layer in range(len(self.full.layers))]
            target = of_architecture(chosen(target, [max(0, number - 1) for number in number_before]), self.full)
        plan = scheduled_plan(self.full, target, progress=progress, kept=self.pruned, multiple=self.multiple)
        self.plan_reached = progress == 1
        return None if plan == self.pruned else self.prune_to(plan, optimizer=optimizer)

    def prune_to(self, plan: WidthPlan, *, optimizer: torch.optim.Optimizer | None = None) -> UnitTensors:
        """Remove the least important units, down to a plan; return the applied masks, over the units before.

        Of a nested student they move behind the others, and are removed as far as no member has them.

        Args:
            plan: widths, none above the student's.
            optimizer: moved to the new parameters.
        """
        if self.floor is None:
            masks = choose_masks(self.unit_scores(), full_masks(self.groups), plan=plan)
        else:
            from .nested import move_units, moved_scores, unit_orders  # for such a student alone

            orders = unit_orders(self.unit_scores(), within=self.innermost, to=plan)
            move_units(self.model, self.groups, orders, optimizer=optimizer)
            self.scores.state = moved_scores(self.scores.state, orders)
            self.choices_digest = hashlib.sha256(self.choices_digest + mask_digest(orders)).digest()
            self.innermost, plan = plan, widest_of(plan, self.floor)
            masks = first_units(self.groups, plan)
        # chained, so that ranks that differed once differ from then on
        self.choices_digest = hashlib.sha256(self.choices_digest + mask_digest(masks)).digest()
        self.scores.keep(*compact(self.model, self.groups, masks, plan=plan, optimizer=optimizer))
        self.groups = encoder_groups(self.model)
        return masks

    def unit_scores(self) -> UnitTensors:
        """Return the importance of every unit now, float32."""
        return self.scores.scores(dict(self.model.named_parameters()), self.groups)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return the scores for a checkpoint, on the CPU."""
        return {name: values.detach().cpu().contiguous() for name, values in self.scores.state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the rest of the pruner's state for a checkpoint, as JSON values."""
        state = {"settings": self.settings, "plan_reached": self.plan_reached}
        state |= {} if self.floor is None else {"innermost": self.innermost.to_dict()}
        return state if self.gates is None else state | {"gates": self.gates.state_dict()}

    def load_state(self, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from a checkpoint; the student's parameters must have its widths already.

        Args:
            state: the result of `state_dict`, checked by `check_state`.
            tensors: the result of `state_tensors`.
        """
        self.groups = encoder_groups(self.model)
        # at 0 the layers are gone
        if (gates := state.get("gates")) and gates["value"]:
            (self.gates or self.leave(gates["kept"])).move_to(gates["value"])
        self.plan_reached = state["plan_reached"]
        if self.floor is not None:
            self.innermost = of_architecture(WidthPlan.from_dict(state["innermost"], len(self.full.layers)), self.full)
        self.scores.state = {name: values.to(self.model.device) for name, values in tensors.items()}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse, with `ValueError` and without a change, a state of another metric, or of other layers that stay."""
        own, metric = self.settings["metric"], state["settings"]["metric"]
        if metric != own:
            raise ValueError(f"importance_metric={own!r} differs from the checkpoint's {metric!r}; resume with it")
        if self.gates is not None and (kept := state.get("gates", {}).get("kept")) != list(self.gates.kept):
            raise ValueError(
                f"the checkpoint keeps layers {kept}, the student of this trainer {list(self.gates.kept)}; resume "
                "with a new trainer"
            )
