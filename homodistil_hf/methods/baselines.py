"""Baselines that start from the same teacher, see the same batches and end at the same widths.

One-shot pruning is the hard opponent: the student is cut to the plan before training, so all its tokens are spent on
the final width; but it starts far away from the teacher (HomoDistil, section 4.3: "one-shot pruning").
"""

import logging
from typing import Any

from ..trainer import HomoDistilTrainer

logger = logging.getLogger(__name__)


class OneShotTrainer(HomoDistilTrainer):
    """Score the units on a few batches without updates, prune to the plan at once, then distil with the same loss.

    Constructor, settings, learning-rate curve, checkpoints and exports are those of [`HomoDistilTrainer`]; the pruning
    windows shape the learning rate only.

    Args:
        num_scoring_batches: training batches that the scores are taken from, ≥ 1. Default: 16.
    """

    def __init__(self, *args: Any, num_scoring_batches: int = 16, **kwargs: Any):
        if num_scoring_batches < 1:
            raise ValueError(f"num_scoring_batches={num_scoring_batches} is below 1; scores need a batch, e.g. 16")
        super().__init__(*args, **kwargs)
        if self.snapshots:
            raise ValueError(
                f"snapshots={self.args.snapshots!r} are passed by gradual pruning only; drop them, or use "
                "HomoDistilTrainer"
            )
        self.num_scoring_batches = num_scoring_batches

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Prune at once unless resuming, then train; arguments and return as [`HomoDistilTrainer.train`]."""
        self.claim_output_folder(resume_from_checkpoint)
        if not resume_from_checkpoint and not self.pruner.plan_reached:
            self._prune_at_once()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _prune_at_once(self) -> None:
        self.model.eval()
        batches = iter(self.get_train_dataloader())
        for _ in range(self.num_scoring_batches):
            fetched, _ = self.get_batch_samples(batches, 1, self.args.device)
            if not fetched:
                break
            self._score_batch(fetched[0])
        self.pruner.plan_reached = True
        self.pruner.prune_to(self.pruner.final_plan())
        self.pruner.compact(self.optimizer)
        logger.info("one-shot: pruned to %s", self.pruner.present.to_json())

    def _score_batch(self, inputs: Any) -> None:
        self.accelerator.backward(self.compute_loss(self.model, self._prepare_inputs(inputs)))
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        self.pruner.score()
        self.model.zero_grad(set_to_none=True)
