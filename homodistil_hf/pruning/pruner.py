"""One student on its way to a width plan: score → mask → zero → compact, and all the state of that.

The `Pruner` strings the stages together in the order of the paper and knows nothing of Trainer, data or ranks: the
trainer calls it at four moments of an optimizer step.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..models.families.modeling_homobert import HomoBertPreTrainedModel
from ..models.units import UnitTensors, encoder_groups
from ..models.widths import WidthPlan, teacher_plan
from . import compaction as compaction
from . import masks as masking
from .guard import DiscrepancyGuard
from .schedule import PruningSchedule, kept_fraction
from .scores import METRICS, SensitivityScores

logger = logging.getLogger(__name__)

_OTHER_SETTING = "resumed with %s=%s, the checkpoint has %s: the run will differ from an uninterrupted one"
_SCORE_PREFIX, _MASK_PREFIX, _HEAD_PREFIX = "score.", "mask.", "heads."


@dataclass(frozen=True)
class PruningSettings:
    """How units are scored and chosen; the words are those of `HomoDistilTrainingArguments`.

    Args:
        metric: `sensitivity`, `platon`, `magnitude` or `movement`.
        width_allocation: `local` or `global`.
        multiple: widths in between are rounded up to this, ≥ 1.
        compaction_threshold: share of the encoder MACs, in [0, 1].
        sensitivity_smoothing: β1 in [0, 1).
        uncertainty_smoothing: β2 in [0, 1).
    """

    metric: str = "sensitivity"
    width_allocation: str = "local"
    multiple: int = 8
    compaction_threshold: float = 0.1
    sensitivity_smoothing: float = 0.85
    uncertainty_smoothing: float = 0.95


class Pruner:
    """Prunes a student towards a plan.

    Args:
        model: the student; changed in place.
        target: the plan.
        settings: how units are scored and chosen.
        guard: pauses pruning; None = never.
        full: the widths that kept fractions refer to. Default: the student's now.
        waypoints: plans to pass through, each no wider than the one before; `step` then needs a schedule with as many.
    """

    def __init__(
        self,
        model: HomoBertPreTrainedModel,
        target: WidthPlan,
        *,
        settings: PruningSettings = PruningSettings(),
        guard: DiscrepancyGuard | None = None,
        full: WidthPlan | None = None,
        waypoints: Sequence[WidthPlan] = (),
    ):
        self.model = model
        self.target = target
        self.settings = settings
        self.guard = guard
        self.full = full or teacher_plan(model.config)
        self.groups = encoder_groups(model)
        self.masks = masking.full_masks(self.groups)
        self._slices: tuple[UnitTensors, masking.Slices] = ({}, {})
        self.choices_digest = b""
        self.scores = self._new_scores()
        self.plan_reached = self.full == target
        self.waypoints = tuple(waypoints)
        self.num_waypoints_reached = self.rests_until_step = 0
        self.num_compactions = 0
        num_heads = [layer.num_attention_heads for layer in self.full.layers]
        self.teacher_heads = [torch.arange(count) for count in num_heads]

    @property
    def present(self) -> WidthPlan:
        """The widths of the student's parameters."""
        return teacher_plan(self.model.config)

    @property
    def kept(self) -> WidthPlan:
        """The widths that the masks leave."""
        return masking.kept_plan(self.masks)

    def kept_heads(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Heads that both models still have.

        Args:
            layer: layer index.

        Returns:
            `(teacher heads, student heads)`: int64 indices of the same heads in the two models.
        """
        student_heads = self.masks[f"head.{layer}"].nonzero().flatten()
        return self.teacher_heads[layer][student_heads], student_heads

    def kept_fractions(self) -> dict[str, float]:
        """Share of the units still kept, for each kind of group.

        Returns:
            `dict`: `hidden`, `attention` (heads × head size) and `ffn`, each in (0, 1].
        """
        kept, full = self.kept, self.full
        return {
            "hidden": kept.hidden_size / full.hidden_size,
            "attention": _total(kept, "attention_size") / _total(full, "attention_size"),
            "ffn": _total(kept, "intermediate_size") / _total(full, "intermediate_size"),
        }

    def status(self) -> dict[str, float]:
        """What logs and evaluations say about pruning.

        Returns:
            `dict`: `kept_fraction_{kind}` of every kind, `num_compactions`, and with a guard `num_guard_pauses`.
        """
        status = {f"kept_fraction_{kind}": value for kind, value in self.kept_fractions().items()}
        status["num_compactions"] = self.num_compactions
        if self.guard is not None:
            status["num_guard_pauses"] = self.guard.num_pauses
        return status

    def score(self, *, gradient_scale: float = 1.0) -> None:
        """After backward: take the complete, unclipped gradients in; then those of dropped units are zeroed.

        Once the plan is reached nobody will ask for scores any more, and they stay as they are.

        Args:
            gradient_scale: what a gradient scaler multiplied them by.
        """
        if not self.plan_reached:
            self.scores.update(dict(self.model.named_parameters()), self.groups, gradient_scale=gradient_scale)
        if slices := self._dropped():
            masking.zero_slices(masking.gradients(self.model), slices)

    def zero(self) -> None:
        """After the optimizer's step: what is dropped is set to exactly zero again."""
        if slices := self._dropped():
            masking.zero_slices({name: parameter.data for name, parameter in self.model.named_parameters()}, slices)

    def _dropped(self) -> masking.Slices:
        """Made once for all steps between two choices: masks are never changed, but replaced."""
        if self._slices[0] is not self.masks:
            self._slices = self.masks, masking.dropped_slices(self.groups, self.masks, device=self.model.device)
        return self._slices[1]

    def step(self, step: int, schedule: PruningSchedule, *, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """At the end of a step: choose masks if the schedule asks, compact if enough was dropped.

        Args:
            step: completed optimizer steps.
            schedule: of this run.
            optimizer: follows a compaction.

        Returns:
            `bool`: whether the student was compacted.
        """
        if self.plan_reached or step <= self.rests_until_step or not schedule.is_due(step):
            return False
        leg = self.num_waypoints_reached
        if self._is_held_back(step, schedule):
            return False
        progress = schedule.progress(self._moment(step, schedule), leg=leg)
        stations = (self.full, *self.waypoints, self.target)
        plan = self._plan_between(stations[leg], stations[leg + 1], progress)
        if all(value == 1 for value in progress.values()):
            self._arrive(step, schedule)
        if plan != self.kept:
            self.prune_to(plan)
        return self.maybe_compact(optimizer)

    def waypoint_due(self, step: int) -> int | None:
        """The waypoint whose rest is over with this step: the moment to look at the student.

        Args:
            step: completed optimizer steps; `step` has been called for it.

        Returns:
            `int`: its index, or None.
        """
        return self.num_waypoints_reached - 1 if self.num_waypoints_reached and step == self.rests_until_step else None

    def final_plan(self) -> WidthPlan:
        """The widths at the end of pruning if all were decided now: the target, or its totals shared out globally.

        Returns:
            [`WidthPlan`].
        """
        return self._plan_between(self.full, self.target, dict.fromkeys(("hidden", "attention", "ffn"), 1.0))

    def prune_to(self, plan: WidthPlan) -> None:
        """Drop the least important units down to a plan.

        Args:
            plan: widths, none above what is still kept.
        """
        if self.guard is not None:
            self.guard.mark_pruned()
        self.masks = masking.choose_masks(self.unit_scores(), self.masks, plan=plan)
        # Over all choices so far: a compaction leaves masks that keep everything, whatever was chosen before.
        self.choices_digest = hashlib.sha256(self.choices_digest + masking.mask_digest(self.masks)).digest()
        masking.apply_masks(self.model, self.groups, self.masks)
        # What is left of a dropped weight's score must not count for the units that it crosses: compaction removes it.
        for averages in self.scores.parameter_averages():
            masking.zero_dropped(averages, self.groups, self.masks)

    def unit_scores(self) -> UnitTensors:
        """The importance of every unit now.

        Returns:
            `dict[str, torch.Tensor]`: float32, one a unit.
        """
        return self.scores.scores(dict(self.model.named_parameters()), self.groups)

    def maybe_compact(self, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Compact if the plan is reached or enough MACs are masked.

        Args:
            optimizer: follows.

        Returns:
            `bool`: whether the student was compacted.
        """
        present, kept = self.present, self.kept
        threshold = 0.0 if self.plan_reached else self.settings.compaction_threshold
        if not compaction.is_worthwhile(present, kept, threshold=threshold):
            return False
        self.compact(optimizer)
        return True

    def compact(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Remove everything that is masked.

        Args:
            optimizer: follows to the new parameters.
        """
        kept = compaction.compact(self.model, self.groups, self.masks, plan=self.kept, optimizer=optimizer)
        self.scores.keep(self.masks, kept)
        self.teacher_heads = [heads[self.masks[f"head.{layer}"]] for layer, heads in enumerate(self.teacher_heads)]
        self._refresh()
        self.num_compactions += 1

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Masks, scores and head numbers, for a checkpoint.

        Returns:
            `dict[str, torch.Tensor]` on the CPU.
        """
        tensors = {_MASK_PREFIX + name: mask for name, mask in self.masks.items()}
        tensors |= {_SCORE_PREFIX + name: values for name, values in self.scores.state.items()}
        tensors |= {f"{_HEAD_PREFIX}{layer}": heads for layer, heads in enumerate(self.teacher_heads)}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything else that a checkpoint must hold.

        Returns:
            `dict` of JSON values.
        """
        return {
            "full": self.full.to_dict(),
            "target": self.target.to_dict(),
            "settings": dataclasses.asdict(self.settings),
            "plan_reached": self.plan_reached,
            "waypoints": [plan.to_dict() for plan in self.waypoints],
            "num_waypoints_reached": self.num_waypoints_reached,
            "rests_until_step": self.rests_until_step,
            "num_compactions": self.num_compactions,
            "guard": None if self.guard is None else self.guard.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from a checkpoint; the student's parameters must have its widths already.

        Args:
            state: what `state_dict` returned.
            tensors: what `state_tensors` returned.

        Raises:
            ValueError: the checkpoint's plan, metric or masks don't fit this run.
        """
        self._check_same_run(state)
        num_layers = len(self.full.layers)
        self.full = WidthPlan.from_dict(state["full"], num_layers)
        for name in ("plan_reached", "num_compactions", "num_waypoints_reached", "rests_until_step"):
            setattr(self, name, state[name])
        if self.guard is not None and state["guard"] is not None:
            self.guard.load_state_dict(state["guard"])
        self.groups = encoder_groups(self.model)
        self.masks = _with_prefix(tensors, _MASK_PREFIX)
        scores = _with_prefix(tensors, _SCORE_PREFIX)
        self.scores.state = {name: values.to(self.model.device) for name, values in scores.items()}
        self.teacher_heads = [tensors[f"{_HEAD_PREFIX}{layer}"] for layer in range(num_layers)]
        sizes = {name: group.num_units for name, group in self.groups.items()}
        if {name: len(mask) for name, mask in self.masks.items()} != sizes:
            raise ValueError(f"checkpoint masks of {len(self.masks)} groups don't fit the student's widths {sizes}")
        masking.apply_masks(self.model, self.groups, self.masks)

    def _is_held_back(self, step: int, schedule: PruningSchedule) -> bool:
        if self.guard is None or step >= schedule.deadline_of_leg(self.num_waypoints_reached):
            return False
        return not self.guard.allows(step, moment=self._moment(step, schedule))

    def _moment(self, step: int, schedule: PruningSchedule) -> float:
        if self.guard is None:
            return step
        leg = self.num_waypoints_reached
        return self.guard.moment(step, end_step=schedule.end_of_leg(leg), deadline_step=schedule.deadline_of_leg(leg))

    def _arrive(self, step: int, schedule: PruningSchedule) -> None:
        reached = self.num_waypoints_reached
        if reached == len(self.waypoints):
            self.plan_reached = True
            return
        self.num_waypoints_reached += 1
        self.rests_until_step = step + schedule.recovery_steps
        if self.guard is not None:
            # The next leg begins where it was to begin, however late this one ends.
            begins = min(step, schedule.waypoint_steps[reached]) + schedule.recovery_steps
            self.guard.set_clock(self.rests_until_step, moment=begins)

    def _plan_between(self, start: WidthPlan, end: WidthPlan, progress: Mapping[str, float]) -> WidthPlan:
        present, multiple = self.kept, self.settings.multiple
        if self.settings.width_allocation == "local":
            return masking.scheduled_plan(start, end, progress=progress, present=present, multiple=multiple)
        # Budgets are sums over layers, so a layer may be above the uniform schedule; only head sizes and the hidden
        # size are bounded by what each layer still has.
        budget = masking.scheduled_plan(
            start, end, progress=progress, present=self._budget_ceiling(start), multiple=multiple
        )
        plan = masking.compete_across_layers(
            budget,
            self.unit_scores(),
            self.masks,
            multiple=multiple,
            max_heads=self._most_heads(start, end, progress["attention"]),
        )
        return dataclasses.replace(plan, hidden_size=min(plan.hidden_size, present.hidden_size))

    def _budget_ceiling(self, start: WidthPlan) -> WidthPlan:
        layers = tuple(
            dataclasses.replace(widths, head_dim=present.head_dim)
            for widths, present in zip(start.layers, self.kept.layers, strict=True)
        )
        return WidthPlan(self.kept.hidden_size, layers)

    def _most_heads(self, start: WidthPlan, end: WidthPlan, progress: float) -> int:
        most = max(layer.num_attention_heads for layer in start.layers)
        if start in self.waypoints:
            most = start.padded().layers[0].num_attention_heads
        exportable = end.padded().layers[0].num_attention_heads
        return max(exportable, round(most * kept_fraction(progress, exportable / most)))

    def _new_scores(self) -> SensitivityScores:
        return METRICS[self.settings.metric](
            self.groups,
            sensitivity_smoothing=self.settings.sensitivity_smoothing,
            uncertainty_smoothing=self.settings.uncertainty_smoothing,
        )

    def _refresh(self) -> None:
        self.groups = encoder_groups(self.model)
        self.masks = masking.full_masks(self.groups)

    def _check_same_run(self, state: Mapping[str, Any]) -> None:
        target = self.target.to_dict()
        if state["target"] != target:
            raise ValueError(
                f"student plan {target} differs from the checkpoint's {state['target']}; resume with the same "
                "student, or start a new run from the exported checkpoint"
            )
        waypoints = [plan.to_dict() for plan in self.waypoints]
        if state["waypoints"] != waypoints:
            raise ValueError(
                f"snapshots {waypoints} differ from the checkpoint's {state['waypoints']}; resume with those"
            )
        metric = state["settings"]["metric"]
        if metric != self.settings.metric:
            raise ValueError(
                f"importance_metric={self.settings.metric!r} differs from the checkpoint's {metric!r}; resume with it"
            )
        for name, value in dataclasses.asdict(self.settings).items():
            if value != state["settings"][name]:
                logger.warning(_OTHER_SETTING, name, value, state["settings"][name])


def _total(plan: WidthPlan, name: str) -> int:
    return sum(getattr(layer, name) for layer in plan.layers)


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
