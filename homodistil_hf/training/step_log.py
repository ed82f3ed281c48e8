"""What a run keeps account of: every term of the loss between two logs, steps that are skipped, tokens lost with them.

Exact across resumes. What the terms are, and when a step is bad, is the trainer's business.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files.checkpoints import last_checkpoint
from .resumable import ResumableTrainer

logger = logging.getLogger(__name__)

_COUNTERS = ("logged_step", "num_summed_steps", "num_bad_steps", "num_bad_steps_in_row", "num_skipped_tokens")


class AccountingTrainer(ResumableTrainer):
    """`ResumableTrainer` that logs averages of named terms, and leaves bad steps out of them and out of the run.

    Subclasses call `open_accounts` when a run begins, `take_in` for each micro-batch, then `close_step` or
    `drop_bad_step`.
    """

    term_sums: dict[str, torch.Tensor]
    step_terms: dict[str, torch.Tensor]
    logged_step = 0
    num_summed_steps = 0
    num_bad_steps = 0
    num_bad_steps_in_row = 0
    num_skipped_tokens = 0

    def open_accounts(self) -> None:
        """A run begins or goes on: nothing is counted since the last log."""
        self.term_sums, self.step_terms = {}, {}
        self.logged_step, self.num_summed_steps = self.state.global_step, 0
        self.num_bad_steps = self.num_bad_steps_in_row = self.num_skipped_tokens = 0

    def take_in(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add the terms of a micro-batch to those of its step.

        Args:
            terms: name → scalar, this micro-batch's share.
        """
        for name, term in terms.items():
            value = term.detach()
            self.step_terms[name] = self.step_terms[name] + value if name in self.step_terms else value

    def close_step(self) -> dict[str, torch.Tensor]:
        """Count a step that is good.

        Returns:
            `dict`: name → this rank's share of the step's term.
        """
        terms, self.step_terms = self.step_terms, {}
        self.num_bad_steps_in_row = 0
        self.num_summed_steps += 1
        for name, value in terms.items():
            self.term_sums[name] = self.term_sums[name] + value if name in self.term_sums else value
        return terms

    def drop_bad_step(self, num_tokens: int) -> None:
        """Count a step whose gradients are not finite, and keep the optimizer from taking it.

        Args:
            num_tokens: lost with it, over all ranks.

        Raises:
            FloatingPointError: it is one too many in a row.
        """
        self.step_terms = {}
        self.num_bad_steps += 1
        self.num_bad_steps_in_row += 1
        self.num_skipped_tokens += num_tokens
        step, in_row = self.state.global_step + 1, self.num_bad_steps_in_row
        logger.warning(
            "step %d is skipped: gradients are not finite (%d in a row), %d tokens", step, in_row, num_tokens
        )
        if self.accelerator.scaler is None:
            self.model.zero_grad(set_to_none=True)
        else:
            # A gradient scaler skips the step itself; it looks at single gradients, which may be finite where their
            # norm is not.
            next(p.grad for p in self.model.parameters() if p.grad is not None).fill_(math.inf)
        if in_row > self.args.max_bad_steps:
            raise FloatingPointError(
                f"gradients were not finite for {in_row} steps in a row (max_bad_steps={self.args.max_bad_steps}); "
                f"lower learning_rate or check the data. Last good checkpoint: {self._last_good_checkpoint(step)}"
            )

    def _last_good_checkpoint(self, step: int) -> Path | None:
        """The newest checkpoint from before the bad steps that end at `step`, if possible one that a good step left.

        Weights may be finite and yet so large that nothing can be computed with them: a step that was done with them
        shows that it can.
        """
        first_bad_step = step - self.num_bad_steps_in_row + 1
        proven = last_checkpoint(self.args.output_dir, before_step=first_bad_step - 1)
        return proven or last_checkpoint(self.args.output_dir, before_step=first_bad_step)

    def checkpoints_to_keep(self) -> list[Path]:
        """Beside the best one, the last good one while steps are bad; see [`ResumableTrainer.checkpoints_to_keep`]."""
        good = self._last_good_checkpoint(self.state.global_step) if self.num_bad_steps_in_row else None
        return super().checkpoints_to_keep() + ([] if good is None else [good])

    # Logs

    def status(self) -> dict[str, float]:
        """What training logs say beside losses and counts; subclasses have something.

        Returns:
            `dict`: name → number.
        """
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with every term of the loss, the bad steps and the status beside Trainer's own training logs."""
        if "loss" in logs:
            averages = self._averages(logs["loss"])
            if averages:
                logs |= averages
            else:
                del logs["loss"]
            counts = {"num_bad_steps": self.num_bad_steps, "num_skipped_tokens": self.num_skipped_tokens}
            logs |= counts | self.status()
            self.term_sums, self.num_summed_steps, self.logged_step = {}, 0, self.state.global_step
        super().log(logs, start_time)

    def _averages(self, loss: float) -> dict[str, float]:
        """Loss and terms over the steps that were not skipped since the last log; nothing if all were."""
        if self.num_summed_steps == 0:
            return {}
        names = sorted(self.term_sums)
        sums = self.accelerator.reduce(torch.stack([self.term_sums[name] for name in names]), reduction="sum")
        averages = {"loss": loss * ((self.state.global_step - self.logged_step) / self.num_summed_steps)}
        return averages | {
            f"loss_{name}": value / self.num_summed_steps for name, value in zip(names, sums.tolist(), strict=True)
        }

    def log_state(self) -> dict[str, Any]:
        """Running averages and counters, exact; called on all ranks.

        Returns:
            `dict` of JSON values.
        """
        sums = {name: self.of_every_rank(value) for name, value in self.term_sums.items()}
        return super().log_state() | {"term_sums": sums} | {name: getattr(self, name) for name in _COUNTERS}

    def restore_log_state(self) -> None:
        """Put running averages and counters back once training has begun."""
        super().restore_log_state()
        if self.resumed_logs is None:
            return
        for name, values in self.resumed_logs["term_sums"].items():
            value = self.own_value(values, otherwise=sum(values) / self.args.world_size)
            self.term_sums[name] = torch.tensor(value, device=self.args.device)
        for name in _COUNTERS:
            setattr(self, name, self.resumed_logs[name])
