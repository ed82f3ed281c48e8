"""Which units go next: scores and scheduled widths → masks.

Masks are one bool a unit, True = kept. A dropped head is dropped in its channel groups too. schedule.py gives the
progress, compaction.py removes the units.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import torch

from ..models.units import Group, UnitTensors, head_group
from ..models.widths import LayerWidths, WidthPlan


def full_masks(groups: Mapping[str, Group]) -> UnitTensors:
    """Return masks that keep every unit of a student's groups."""
    return {name: torch.ones(group.num_units, dtype=torch.bool) for name, group in groups.items()}


def first_units(groups: Mapping[str, Group], plan: WidthPlan) -> UnitTensors:
    """Return masks that keep the first units of every group: what a nested student's member of a plan has of it."""
    none = {name: torch.zeros(group.num_units) for name, group in groups.items()}
    return choose_masks(none, full_masks(groups), plan=plan)  # ties go to the lower index


def scheduled_plan(
    full: WidthPlan, target: WidthPlan, *, progress: float, kept: WidthPlan, multiple: int
) -> WidthPlan:
    """Return the widths that the schedule asks for now, between `target` and `kept`.

    Every width falls from full to target with the progress, rounded to the nearest step. A step is a multiple
    of hidden channels, FFN neurons or channels of a head, or one head or those that share a key. Where heads of
    teacher or target have no such multiple, a step is one channel, or a pair of rotary ones. So a choice of masks
    removes at most one step more than the schedule since the choice before. The last cut is no larger than the
    others. The target itself is reached exactly.

    Args:
        full: the teacher's widths.
        target: the plan.
        progress: p(t) in [0, 1].
        kept: the student's widths now.
        multiple: step of hidden and FFN widths and of heads' channels on the way, ≥ 1.
    """

    def width(full_width: int, target_width: int, kept_width: int, unit: int = 1) -> int:
        # w(t) = w_full − (w_full − w_target)·p(t), to the nearest step
        exact = full_width - (full_width - target_width) * progress
        nearest = math.floor(exact / unit + 0.5) * unit if progress < 1 else target_width
        # Never wider than now, as units don't come back, and never below the target.
        return min(kept_width, max(target_width, nearest))

    # channels that turn leave in pairs
    channel = 2 if target.traits.rotary_kinds else 1
    channels = math.lcm(channel, multiple)
    shared = target.traits.queries_per_key

    def layer(most: LayerWidths, least: LayerWidths, now: LayerWidths) -> LayerWidths:
        step = channel if most.head_dim % channels or least.head_dim % channels else channels
        return LayerWidths(
            width(most.num_attention_heads, least.num_attention_heads, now.num_attention_heads, shared),
            width(most.head_dim, least.head_dim, now.head_dim, step),
            width(most.intermediate_size, least.intermediate_size, now.intermediate_size, multiple),
        )

    layers = [layer(*widths) for widths in zip(full.layers, target.layers, kept.layers, strict=True)]
    hidden_size = width(full.hidden_size, target.hidden_size, kept.hidden_size, multiple)
    reached = dataclasses.replace(target, hidden_size=hidden_size, layers=tuple(layers))
    if full.embedding_size and target.embedding_size and kept.embedding_size:
        embedding_size = width(full.embedding_size, target.embedding_size, kept.embedding_size, multiple)
        return dataclasses.replace(reached, embedding_size=embedding_size)
    return reached


def choose_masks(scores: UnitTensors, masks: UnitTensors, *, plan: WidthPlan) -> UnitTensors:
    """Return masks, on the CPU, that keep the best units of every group, down to a plan's widths.

    Ties go to the lower index, so all ranks agree. Every kept head keeps the same number of channels.

    Args:
        scores: float32 importance a unit.
        masks: current masks; dropped units stay dropped.
        plan: widths to keep, no width above the masks' own.

    Example:
    ```python
    >>> sizes = {"hidden": 4, "head.0": 2, "query_key.0": 4, "value_output.0": 4, "ffn.0": 3}
    >>> masks = {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}
    >>> scores = {name: torch.arange(size) for name, size in sizes.items()}
    >>> chosen = choose_masks(scores, masks, plan=WidthPlan.uniform(3, 1, LayerWidths(1, 1, 2)))
    >>> chosen["ffn.0"].tolist(), chosen["query_key.0"].tolist()
    ([False, True, True], [False, False, False, True])

    ```
    """
    # all scores at once: every copy from a device waits for it
    values = torch.cat([of_group.detach() for of_group in scores.values()]).cpu()
    sizes = [len(of_group) for of_group in scores.values()]
    cpu_scores = dict(zip(scores, values.split(sizes), strict=True))
    chosen = {"hidden": best_units(cpu_scores["hidden"], masks["hidden"], plan.hidden_size)}
    if plan.embedding_size is not None:
        chosen["embedding"] = best_units(cpu_scores["embedding"], masks["embedding"], plan.embedding_size)
    for index, widths in enumerate(plan.layers):
        head, ffn = head_group(masks, index), f"ffn.{index}"
        num_units = widths.num_attention_heads // plan.traits.queries_per_key
        chosen[head] = best_units(cpu_scores[head], masks[head], num_units)
        # Channels compete inside their head only, and only in heads that stay: a layer's heads share one head size.
        by_head = (len(chosen[head]), -1)
        query_key = [] if plan.traits.rotary_kinds else [f"query_key.{index}"]
        for name in (*query_key, f"value_output.{index}"):
            available = masks[name].view(by_head) & chosen[head][:, None]
            chosen[name] = best_units(cpu_scores[name].view(by_head), available, widths.head_dim).flatten()
        chosen[ffn] = best_units(cpu_scores[ffn], masks[ffn], widths.intermediate_size)
    # Layers of a kind share one group of rotary pairs, and one head size.
    for kind, widths in dict(zip(plan.traits.rotary_kinds, plan.layers, strict=False)).items():
        pairs = f"query_key.{kind}"
        chosen[pairs] = best_units(cpu_scores[pairs], masks[pairs], widths.head_dim // 2)
    return chosen


def best_units(scores: torch.Tensor, mask: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Return the mask of the `num_kept` highest scores along the last dimension among units that `mask` keeps.

    Ties go to the lower index.
    """
    # A score that is not a number counts least of all units that are there; dropped ones are lower still.
    comparable = scores.float().nan_to_num(nan=torch.finfo(torch.float32).min)
    ranked = comparable.masked_fill(~mask, -math.inf)
    order = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :num_kept]
    # All channels of a dropped head rank −∞, and the sort still picks some of them: the mask takes them out again.
    return torch.zeros_like(mask).scatter_(-1, order, True) & mask


def mask_digest(masks: UnitTensors) -> bytes:
    """Return the SHA-256 of all masks, 32 bytes, to compare ranks.

    Example:
    ```python
    >>> mask_digest({"ffn.0": torch.tensor([True])}) == mask_digest({"ffn.0": torch.tensor([False])})
    False

    ```
    """
    digest = hashlib.sha256()
    for name in sorted(masks):
        digest.update(name.encode())
        digest.update(bytes(masks[name].to(torch.uint8).cpu().tolist()))
    return digest.digest()
