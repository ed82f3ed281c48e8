"""Trainer's evaluation loop, with the student measured against its teacher and the labels, in float32.

Metrics are computed elsewhere; this feeds them from Trainer's loop, and knows nothing of training.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.trainer_pt_utils import nested_detach

from ..data.masking import MaskedLMCollator
from ..distillation.discrepancy import DiscrepancyMeter
from ..distillation.objective import Distillation
from ..pruning.pruner import Pruner
from .checks import check_batch
from .rows import RankedTrainer, first_rows, num_own_rows

_PREFIX = "eval_"
TIMINGS = ("runtime", "per_second", "preparation_time")
"""Ends of the names of logged values that tell how long something took."""


class MeasuringTrainer(RankedTrainer):
    """`RankedTrainer` that measures discrepancies; subclasses bring the student, its teacher and the pruner."""

    pruner: Pruner
    distillation: Distillation
    meter: DiscrepancyMeter
    model_wrapped: nn.Module
    data_collator: Any
    evaluation_collator: MaskedLMCollator | None = None
    teacher_evaluation: Mapping[str, float] = {}
    """Held-out metrics of the teacher, once `evaluate_teacher` has measured them."""

    @property
    def evaluations(self) -> dict[int, dict[str, float]]:
        """What the run's evaluations on held-out data have measured, by step, without times and prefix."""
        return {
            entry["step"]: {
                name.removeprefix(_PREFIX): value
                for name, value in entry.items()
                if name.startswith(_PREFIX) and not name.endswith(TIMINGS)
            }
            for entry in self.state.log_history
            if any(name.startswith(_PREFIX) for name in entry)
        }

    @property
    def held_out_metrics(self) -> dict[str, float]:
        """What the last evaluation has measured."""
        return next(reversed(self.evaluations.values()), {})

    def evaluate_teacher(self) -> Mapping[str, float]:
        """Evaluate the teacher on the held-out blocks, in float32; collective. Exports tell of it from then on.

        Returns:
            `dict`: as [`DiscrepancyMeter.results`]; `kl` is 0.
        """
        teacher, meter = self.distillation.teacher, DiscrepancyMeter(self.distillation.task)
        for inputs in self.get_eval_dataloader():
            meter.update(teacher.exact, teacher, self._prepare_inputs(inputs))
        self.teacher_evaluation = meter.results(self._sum_over_ranks)
        return self.teacher_evaluation

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Trainer's, with masks that are the same in every evaluation."""
        with self._evaluation_masks():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Trainer's, with the masks of evaluations."""
        with self._evaluation_masks():
            return super().get_test_dataloader(test_dataset)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's loop, adding `kl`, `mlm_loss`, `mlm_accuracy` (or `task_…`) and kept fractions to the metrics.

        Averages are over predictions, so `loss` is the same whatever the batch size and the number of ranks.

        Args:
            args: passed on.
            metric_key_prefix: before every metric's name.
            kwargs: passed on.

        Returns:
            `EvalLoopOutput`.
        """
        self.meter = DiscrepancyMeter(self.distillation.task)
        wrapped, was_prepared = self.model_wrapped, _is_prepared(self.model)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not self.is_in_train and not was_prepared and _is_prepared(self.model):
            # Else a later train() would take the bare model for one that is wrapped for training already.
            self.model_wrapped = wrapped
            delattr(self.model, _PREPARED)
        results = self.meter.results(self._sum_over_ranks)
        if results:
            results["loss"] = results[f"{self.distillation.task.name}_loss"]
        for name, value in (results | self.pruner.status()).items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """Measure one batch in float32; logits are computed at all positions, and only where they are asked for.

        Args:
            model: unused; the student's own forward is called.
            inputs: a batch, with labels if it is to be measured.
            prediction_loss_only: return no logits.
            ignore_keys: outputs that are no logits.

        Returns:
            `(loss, logits, labels)`, as `Trainer.prediction_step`.
        """
        inputs = self._prepare_inputs(inputs)
        check_batch(inputs, self.model.config)
        has_labels = all(name in inputs for name in self.distillation.task.required_labels)
        loss = self._measure(inputs) if has_labels else None
        if prediction_loss_only:
            return loss, None, None
        labels = _one_or_all(tuple(inputs[name] for name in self.label_names)) if has_labels else None
        return loss, self._logits(inputs, ignore_keys), labels

    @contextmanager
    def _evaluation_masks(self) -> Iterator[None]:
        """Trainer makes its data loaders with a collator whose epoch never changes."""
        collator = self.data_collator
        if isinstance(collator, MaskedLMCollator):
            if self.evaluation_collator is None:
                self.evaluation_collator = copy.deepcopy(collator)
                self.evaluation_collator.set_epoch(0)
            self.data_collator = self.evaluation_collator
        try:
            yield
        finally:
            self.data_collator = collator

    def _measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        num_rows, state = len(inputs["input_ids"]), self.accelerator.gradient_state
        remainder = max(0, state.remainder) if state.end_of_dataloader else 0
        rows = first_rows(inputs, num_own_rows(remainder, batch_size=num_rows, **self.place))
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.args.device)
        return self.meter.update(self.model, self.distillation.teacher, rows)

    def _logits(self, inputs: Mapping[str, torch.Tensor], ignore_keys: Any) -> Any:
        label_names = self.distillation.task.label_names
        forward = {name: value for name, value in inputs.items() if name not in label_names}
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            outputs = type(self.model).forward(self.model, **forward)
        logits = tuple(value for name, value in outputs.items() if name not in (ignore_keys or ()))
        return _one_or_all(nested_detach(logits))

    def _sum_over_ranks(self, sums: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(sums.to(self.args.device), reduction="sum").cpu()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # An early, unpruned student would always win: only those at the plan compete.
        return self.pruner.plan_reached and super()._determine_best_metric(metrics, trial)


_PREPARED = "_is_accelerate_prepared"


def _is_prepared(model: nn.Module) -> bool:
    return _PREPARED in vars(model)


def _one_or_all(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
