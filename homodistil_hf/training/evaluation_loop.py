"""Evaluation and prediction: the student against its teacher and the labels, in float32 on held-out data.

What is measured is `discrepancy.py`'s; this file feeds it from Trainer's loop. Training is `trainer.py`'s business.
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
from .rows import RankedTrainer, first_rows


class MeasuringTrainer(RankedTrainer):
    """`RankedTrainer` that measures discrepancies; subclasses bring the student, its teacher and the pruner."""

    pruner: Pruner
    distillation: Distillation
    meter: DiscrepancyMeter
    model_wrapped: nn.Module
    data_collator: Any
    evaluation_collator: MaskedLMCollator | None = None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Trainer's, with masks that are the same in every evaluation.

        Args:
            eval_dataset: passed on.

        Returns:
            `DataLoader`.
        """
        with self._evaluation_masks():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Trainer's, with the masks of evaluations.

        Args:
            test_dataset: passed on.

        Returns:
            `DataLoader`.
        """
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
        rows = first_rows(inputs, self._num_own_rows(len(inputs["input_ids"])))
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.args.device)
        return self.meter.update(self.model, self.distillation.teacher, rows)

    def _num_own_rows(self, num_rows: int) -> int:
        """Rows of a batch that repeat none: the last one is filled up with the first rows, so that ranks are even."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return num_rows
        return max(0, min(num_rows, state.remainder - self.args.process_index * num_rows))

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
