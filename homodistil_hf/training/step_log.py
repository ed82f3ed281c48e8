"""Sums between two logs: every term of the loss, and skipped steps.

Checkpoints hold these sums, so that a resumed run logs the same values. `exact_trainer.py` fills and reads them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

Reduce = Callable[[torch.Tensor], torch.Tensor]
_COUNTERS = ("num_summed_steps", "num_good_steps", "num_bad_steps", "num_bad_steps_in_row")


class StepLog:
    """Averages of named terms over the steps that were not skipped.

    Example:
    ```python
    >>> log = StepLog()
    >>> for kl in (1.0, 3.0):
    ...     log.take_in({"loss": torch.tensor(2 * kl), "loss_kl": torch.tensor(kl)})
    ...     log.close_step()
    >>> log.averages(), log.mean_loss()
    ({'loss': 4.0, 'loss_kl': 2.0}, 4.0)

    ```
    """

    def __init__(self) -> None:
        self.step_terms: dict[str, torch.Tensor] = {}
        self.term_sums: dict[str, torch.Tensor] = {}
        self.loss_sum = torch.zeros(())
        self.num_summed_steps = self.num_good_steps = self.num_bad_steps = self.num_bad_steps_in_row = 0

    def take_in(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add the terms of a micro-batch, each its share, to those of its step; `loss` is among them."""
        own = [term.detach() for term in terms.values()]
        if self.step_terms:
            own = list(torch._foreach_add([self.step_terms[name] for name in terms], own))
        self.step_terms = dict(zip(terms, own, strict=True))

    def close_step(self) -> None:
        """Count a step that is good."""
        terms, self.step_terms = self.step_terms, {}
        self.num_bad_steps_in_row = 0
        self.num_summed_steps += 1
        self.num_good_steps += 1
        # the nameless sum is the loss of the whole run, the others are since the last log
        sums = {"": self.loss_sum.to(terms["loss"].device)} | self.term_sums
        terms[""] = terms["loss"]
        # one operation for all: an accelerator waits for launches
        known = [name for name in terms if name in sums]
        added = torch._foreach_add([sums[name] for name in known], [terms[name] for name in known])
        sums |= terms | dict(zip(known, added, strict=True))
        self.loss_sum, self.term_sums = sums.pop(""), sums

    def skip_step(self) -> None:
        """Count a skipped step, and drop its terms."""
        self.step_terms = {}
        self.num_bad_steps += 1
        self.num_bad_steps_in_row += 1

    def averages(self, reduce: Reduce = lambda sums: sums) -> dict[str, float]:
        """Mean terms over the good steps since the last call; empty if all were skipped. Collective."""
        sums, num_steps = self.term_sums, self.num_summed_steps
        self.term_sums, self.num_summed_steps = {}, 0
        if not num_steps:
            return {}
        names = sorted(sums)
        totals = reduce(torch.stack([sums[name] for name in names])).tolist()
        return {name: total / num_steps for name, total in zip(names, totals, strict=True)}

    def mean_loss(self, reduce: Reduce = lambda sums: sums) -> float:
        """Mean loss over all good steps of the run, NaN without one; argument as [`StepLog.averages`]."""
        total = float(reduce(self.loss_sum))
        return total / self.num_good_steps if self.num_good_steps else math.nan

    def state_dict(self, of_every_rank: Callable[[list[float]], list[list[float]]]) -> dict[str, Any]:
        """Sums of every rank and counters, exact, as JSON values; collective.

        Args:
            of_every_rank: gathers a list of numbers from all ranks.
        """
        sums = {"": self.loss_sum} | self.term_sums
        ranks = of_every_rank([float(value) for value in sums.values()])
        # transposed: name → its value on each rank
        by_name = {name: [values[place] for values in ranks] for place, name in enumerate(sums)}
        return {"sums": by_name} | {name: getattr(self, name) for name in _COUNTERS}

    def load_state_dict(self, state: Mapping[str, Any], *, rank: int, num_ranks: int, device: torch.device) -> None:
        """Restore `state_dict`; another number of ranks shares the sums evenly."""
        self.term_sums = {
            name: torch.tensor(values[rank] if len(values) == num_ranks else sum(values) / num_ranks, device=device)
            for name, values in state["sums"].items()
        }
        self.loss_sum = self.term_sums.pop("")
        for name in _COUNTERS:
            setattr(self, name, state[name])
