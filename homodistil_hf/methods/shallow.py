"""HomoDistil on fewer layers: some of the teacher's layers are dropped at once, the others pruned in width."""

from .fewer_layers import FewerLayersTrainer


class ShallowTrainer(FewerLayersTrainer):
    """Drop layers at the start, then prune the others to the plan's encoder MACs while they are distilled.

    Arguments and errors as in [`FewerLayersTrainer`]; the loss, the schedule and all else are [`HomoDistilTrainer`]'s.
    """

    method = "shallow"
