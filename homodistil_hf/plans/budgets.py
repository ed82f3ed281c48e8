"""The uniform plan that meets a budget of parameters, encoder MACs or milliseconds, for a teacher of any size.

A budget fixes one number and a plan has four. The search prefers shapes whose students end nearer to their teacher
(docs/results.md). Heads are as many as the teacher's where this number divides the hidden size into heads of 24
channels or more, else fewer rather than far thinner. For budgets of MACs and milliseconds, the hidden size falls less
than the FFN size. Only the compact form may need padding. A plain student keeps the hidden size, so its FFNs narrow,
and in the compact form its heads.
latency.py measures milliseconds. resolve.py reads presets and written plans, and checks plans against the
teacher.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from ..files.messages import near_name, short_repr
from ..files.strict_json import parse_json
from ..models.cost import count_parameters, encoder_macs
from ..models.widths import LayerWidths, WidthPlan, narrowest, nearest_multiples, widths_of, with_embedding

TOLERANCE = 0.03
LATENCY_BUDGET = "latency_ms"
WIDTH_MULTIPLE = 8
"""Widths of students are multiples of this number unless asked otherwise."""
FEWER_LAYERS_BELOW = 128
"""Hidden size below which students of fewer, wider layers end nearer their teacher, as docs/method.md measures.

Of teachers of 128 to 384 channels; for wider ones it is an extrapolation."""
EMBEDDINGS_FEWER_LAYERS_BELOW = 192
"""The same of embedding models, as docs/embeddings.md measures."""
_OF_MACS = ("macs", "compact_macs")
_EXAMPLES = {"params": "14M", "macs": "0.25", "compact_macs": "0.25"}
_BUDGET = re.compile(r"\s*(\w+)\s*=\s*((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMB]?)\s*", re.ASCII)
_NAMED = re.compile(r"\s*(hidden_size|num_attention_heads|layers)\s*=\s*(\d{1,6})\s*", re.ASCII)
_SHARE = re.compile(r"\s*(?:(\d{0,3}\.?\d{1,9})\s*(%?)|(\d{1,4})\s*/\s*([1-9]\d{0,3}))\s*", re.ASCII)
_SAME_SHARE = 1.01  # shares of MACs that are this near need no plan in between
_SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_SMALLEST_SENSIBLE_HEAD_DIM = 24
# The kept share of the FFN size is that of the hidden size to this power; measured, see docs/results.md.
_FFN_POWER = 1.75
# For the compact form: the same power, and attention's share of the hidden size, of the shape measured at a quarter.
_COMPACT_FFN_POWER = 2.5
_COMPACT_ATTENTION = 0.8
# The same for plain students: attention keeps the square of a hidden size's share, the FFN its power 2.75.
_PLAIN_FFN_POWER = 2.75 / 2
_SMALLER_THAN_PLAIN = ", as plain students keep the hidden size; leave plain out for smaller ones"


class Budget(NamedTuple):
    """A cost to meet: `kind` is a key of `_EXAMPLES`, `named` are given widths, `text` is the user's own."""

    kind: str
    target: float
    named: Mapping[str, int]
    text: str = ""


def plan_for_budget(
    budget: str | Budget,
    teacher_config: PreTrainedConfig,
    *,
    multiple: int = 8,
    within: WidthPlan | None = None,
    plain: bool = False,
    fewer_layers_below: int = 0,
) -> WidthPlan:
    """Return the uniform plan that meets a budget within 3 % or one step of `multiple`, whichever is larger.

    Below, h is the hidden size, f the FFN size, a the width of attention; h_t and f_t are the teacher's.

    Args:
        budget (`str` or `Budget`):
            `"params=14M"`: parameters of embeddings and encoder, with an optional suffix k, M or B. f/f_t = h/h_t.
            `"macs=0.25"`: a share of the teacher's encoder MACs at 128 tokens. f/f_t = (h/h_t)^1.75.
            `"compact_macs=0.25"`: the same share with f/f_t = (h/h_t)^2.5 and a = 0.8·h, so that h is larger than with
            `macs`. Only the compact export has such attention; a standard one pads it to h.
            Each may name hidden size, heads and layers as well: `"macs=0.25,hidden_size=216,num_attention_heads=9"`,
            `"macs=0.125,layers=4"`. By default layers are as many as the teacher's, and heads too, or fewer
            rather than far below 24 channels each.
        teacher_config (`PreTrainedConfig`): Configuration of a teacher of any supported architecture.
        multiple (`int`): Hidden size and FFN size are multiples of this number, unless they stay the teacher's; at
            least 1.
        within (`WidthPlan`, *optional*): Widths that the plan may not exceed. Default: the teacher's.
        plain (`bool`): Keep the teacher's hidden size. A stock class takes a from h, so FFNs alone narrow; for
            `compact_macs` heads become fewer or narrower as well.
        fewer_layers_below (`int`): If a budget of MACs names no width and leaves all layers a hidden size below this,
            plan the most layers that reach it, or half of the teacher's.

    Returns:
        `WidthPlan`: Of the plans within 3 % of the budget, the one with the least sum of relative error and distance
        from the shape above. If the steps of the hidden size are too large for 3 %, the plan nearest to the budget.

    Raises:
        ValueError: `budget` is not understood or out of reach; the message names what is valid.
    """
    budget = _parse(budget) if isinstance(budget, str) else budget
    kind, target, named, text = budget
    teacher, widths = widths_of(teacher_config), dict(named)
    if plain and (width := widths.setdefault("hidden_size", teacher.hidden_size)) != teacher.hidden_size:
        raise ValueError(
            f"student={short_repr(text)} names hidden_size={width}, but plain students keep the teacher's "
            f"{teacher.hidden_size}; leave one of both out"
        )
    # Embeddings count as parameters and grow with the hidden size alone, so a wide hidden size would cost too much
    # there: hidden size and FFN keep the teacher's proportion.
    # Stock classes with a head size of their own hold the compact shape.
    shape = "compact_macs" if kind == "macs" and teacher.traits.has_free_heads else kind
    ffn_power = {"params": 1.0, "macs": _FFN_POWER, "compact_macs": _COMPACT_FFN_POWER}[shape]
    attention = _COMPACT_ATTENTION if shape == "compact_macs" else 1.0
    kind_of_search = _PlainSearch if plain and shape == "compact_macs" else _Search
    search = kind_of_search(teacher, multiple, **widths, ffn_power=ffn_power, attention=attention, within=within)

    def measure(plan: WidthPlan) -> float:
        if kind == "params":
            return count_parameters(with_embedding(plan, search.teacher, multiple=multiple), teacher_config)
        return search.macs_fraction(plan)

    proportional = search.proportional_plans()
    smallest, largest = map(measure, search.ends(proportional))
    if not smallest <= target <= largest:
        named_text = "".join(f",{name}={width}" for name, width in named.items())
        raise ValueError(
            f"student={short_repr(text or f'{kind}={target}{named_text}')} is out of this teacher's reach; nearest "
            f"valid: from '{kind}={_rounded(smallest, math.ceil)}{named_text}' to "
            f"'{kind}={_rounded(largest, math.floor)}{named_text}'{_SMALLER_THAN_PLAIN if plain else ''}"
        )

    # Within the tolerance all costs are equally good, so that a better shape may win over an exact cost.
    def distance(plan: WidthPlan) -> tuple[float, float]:
        error = abs(measure(plan) / target - 1)
        return max(0.0, error - TOLERANCE), error + search.unlikeness(plan)

    # Each hidden size gives the wanted FFN size and the two sizes that meet the budget; the nearest plan of all wins.
    candidates = (candidate for plan in proportional for candidate in search.ffn_variants(plan, target, measure))
    best = with_embedding(min(candidates, key=distance), search.teacher, multiple=multiple)
    if not plain and kind in _OF_MACS and not named:
        for number in range(len(teacher.layers) - 1, (len(teacher.layers) - 1) // 2, -1):
            if best.hidden_size >= fewer_layers_below:
                break
            shorter = budget._replace(named={"layers": number})
            try:
                best = plan_for_budget(shorter, teacher_config, multiple=multiple, within=within)
            except ValueError:
                break  # so few layers can't have so many MACs
    return best


def share_as_budget(student: Any) -> Any:
    """Read a bare number, `0.25`, `"25%"` or `"1/4"`, as the budget `macs=0.25`; return all else as it is.

    Example:
    ```python
    >>> [share_as_budget(student) for student in (0.25, "25 %", "1/4", "3/4", "macs=0.5")]
    ['macs=0.25', 'macs=0.25', 'macs=0.25', 'macs=0.75', 'macs=0.5']

    ```
    """
    share = student
    if isinstance(student, str) and (match := _SHARE.fullmatch(student)):
        number, percent, some, parts = match.groups()
        share = int(some) / int(parts) if parts else float(number) / (100 if percent else 1)
    if isinstance(share, bool) or not isinstance(share, int | float):
        return student
    return f"macs={math.inf if abs(share) > sys.float_info.max else share:g}"  # an int may be beyond every float


def listed_students(student: Any) -> list[str] | None:
    """Return the sizes of a list, each as text; None where `student` names one model."""
    if not isinstance(student, str) or not student.lstrip().startswith("["):
        return None
    plans = parse_json(student, "student")
    texts = [json.dumps(plan) if isinstance(plan, dict) else share_as_budget(plan) for plan in plans]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f'student={short_repr(plans)} is no list of students; expected such as ["macs=0.5", "macs=0.25"], from '
            "wide to narrow"
        )
    return texts


def leaves_layers_open(budget: str) -> bool:
    """Whether a budget of MACs names no width, so that its plan may have fewer layers than the teacher."""
    return budget.partition("=")[0].strip() in _OF_MACS and "," not in budget


def is_latency_budget(student: object) -> bool:
    """Whether `student`, of any type, is a latency budget, which latency.py meets."""
    return isinstance(student, str) and student.partition("=")[0].strip() == LATENCY_BUDGET and "=" in student


def named_widths(budget: str) -> dict[str, int]:
    """Return the hidden size, heads and layers that a budget names; empty if it names none or is malformed.

    Example:
    ```python
    >>> named_widths("macs=0.25, num_attention_heads=8"), named_widths("macs=0.25"), named_widths("homobert-tiny")
    ({'num_attention_heads': 8}, {}, {})

    ```
    """
    parts = budget.split(",")[1:]
    matches = [_NAMED.fullmatch(part) for part in parts]
    named = {match[1]: int(match[2]) for match in matches if match}
    return named if len(named) == len(parts) else {}


def plan_for_latency(
    limit_ms: float,
    teacher_config: PreTrainedConfig,
    *,
    measure: Callable[[WidthPlan], float],
    multiple: int = 8,
    plain: bool = False,
) -> WidthPlan:
    """Return the largest plan of a share of MACs that is fast enough, by bisection of the shares.

    Args:
        limit_ms: milliseconds of one forward pass.
        teacher_config: configuration of a teacher of any supported architecture.
        measure: plan → its milliseconds; called for about ten plans, for the smallest of all and for the teacher.
        multiple: see `plan_for_budget`.
        plain: keep the teacher's hidden size; FFNs alone narrow.

    Raises:
        ValueError: no plan is that fast, or the teacher itself is; the message names the range.
    """
    teacher = widths_of(teacher_config)
    search = _Search(teacher, multiple, teacher.hidden_size if plain else None)
    found, widest = search.ends(search.proportional_plans())
    smallest, largest = measure(found), measure(teacher)
    if not smallest <= limit_ms <= largest:
        raise ValueError(
            f"student='latency_ms={limit_ms:g}' is out of this teacher's reach on this machine; nearest valid: from "
            f"'latency_ms={_rounded(smallest, math.ceil)}' to 'latency_ms={_rounded(largest, math.floor)}'"
            f"{_SMALLER_THAN_PLAIN if plain else ''}"
        )
    fast, slow = search.macs_fraction(found), search.macs_fraction(widest)
    while slow > fast * _SAME_SHARE:
        share = math.sqrt(fast * slow)
        plan = plan_for_budget(Budget("macs", share, {}), teacher_config, multiple=multiple, plain=plain)
        if measure(plan) <= limit_ms:
            # times may not rise with every share, so the largest plan that was measured fast enough counts
            fast, found = share, max(found, plan, key=encoder_macs)
        else:
            slow = share
    return found


@dataclasses.dataclass(frozen=True)
class _Search:
    """The uniform plans that a teacher can be pruned to and that its stock class holds.

    `attention` is attention's share of the hidden size. Plans need no padding unless this share is below 1.
    """

    teacher: WidthPlan
    multiple: int
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    layers: int | None = None
    ffn_power: float = _FFN_POWER
    attention: float = 1.0
    within: WidthPlan | None = None

    def __post_init__(self) -> None:
        limits = {
            "hidden_size": self.teacher.hidden_size,
            "num_attention_heads": self.full.num_attention_heads,
            "layers": len(self.teacher.layers),
        }
        for name, most in limits.items():
            width = getattr(self, name)
            if width is not None and not 1 <= width <= most:
                raise ValueError(f"{name}={width} is outside [1, {most}]; the teacher has {most}")
        shared = self.teacher.traits.queries_per_key
        if self.num_attention_heads and self.num_attention_heads % shared:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads}, but {shared} heads of this teacher share a key and "
                f"leave together; nearest valid: {nearest_multiples(self.num_attention_heads, shared)}"
            )

    @functools.cached_property
    def full(self) -> LayerWidths:
        """The widths that every layer of the teacher has."""
        return functools.reduce(narrowest, self.teacher.layers)

    @functools.cached_property
    def limit(self) -> LayerWidths:
        """The largest widths of a uniform plan."""
        return functools.reduce(narrowest, self.within.layers if self.within else (), self.full)

    def macs_fraction(self, plan: WidthPlan) -> float:
        return encoder_macs(plan) / encoder_macs(self.teacher)

    def proportional_plans(self) -> list[WidthPlan]:
        """Return, from narrow to wide, the plan of each hidden size with the teacher's ratio of FFN to hidden size."""
        widest = (self.within or self.teacher).hidden_size
        # the widest itself too, a multiple or not
        hidden_sizes = [*range(self.multiple, widest, self.multiple), widest]
        if self.hidden_size:
            hidden_sizes = [self.hidden_size]
        plans = []
        for hidden_size in hidden_sizes:
            num_heads = self._num_heads(hidden_size)
            if num_heads:
                num_steps = round(self._wanted_ffn(hidden_size) / self.multiple)
                layer = LayerWidths(num_heads, self._head_dim(hidden_size, num_heads), self._ffn_size(num_steps))
                plans.append(self._uniform(hidden_size, layer))
        if not plans:
            num_heads = self.num_attention_heads or self.limit.num_attention_heads
            heads = f"{num_heads} heads of {self.limit.head_dim} or fewer"
            if self.hidden_size:
                raise ValueError(
                    f"hidden_size={self.hidden_size} doesn't split into {heads}; name other heads or none"
                )
            raise ValueError(
                f"multiple={self.multiple} leaves no hidden size that splits into {heads}; nearest valid: 1"
            )
        return plans

    def ends(self, plans: list[WidthPlan]) -> tuple[WidthPlan, WidthPlan]:
        """Return the smallest and the largest possible plan; with named widths the FFN alone varies."""
        if not (self.hidden_size or self.num_attention_heads):
            return plans[0], plans[-1]
        smallest, _ = self._ffn_range(plans[0].hidden_size)
        _, largest = self._ffn_range(plans[-1].hidden_size)
        return (
            _with_ffn(plans[0], self._ffn_size(math.ceil(smallest / self.multiple))),
            _with_ffn(plans[-1], self._ffn_size(math.ceil(largest / self.multiple))),
        )

    def ffn_variants(
        self, plan: WidthPlan, target: float, measure: Callable[[WidthPlan], float]
    ) -> Iterator[WidthPlan]:
        """Yield the plan, and two plans with the FFN sizes on either side of the size that meets `target` exactly."""
        yield plan
        ffn_size = plan.layers[0].intermediate_size
        cost = measure(plan)
        # Every cost is linear in the FFN size.
        slope = measure(_with_ffn(plan, ffn_size + self.multiple)) - cost
        smallest, largest = self._ffn_range(plan.hidden_size)
        # solve cost + slope · further steps = target, within the range
        num_steps = min(max(ffn_size + (target - cost) / slope * self.multiple, smallest), largest) / self.multiple
        yield _with_ffn(plan, self._ffn_size(math.floor(num_steps)))
        yield _with_ffn(plan, self._ffn_size(math.ceil(num_steps)))

    def unlikeness(self, plan: WidthPlan) -> float:
        """Return the distance of a plan from the wanted proportions and heads; 0 if it has them."""
        layer = plan.layers[0]
        distortion = abs(math.log(layer.intermediate_size / self._wanted_ffn(plan.hidden_size)))
        # with a named hidden size the FFN must meet the budget, whatever its proportion
        return (0.0 if self.hidden_size else distortion) + self._head_penalty(
            layer.num_attention_heads, layer.head_dim
        )

    def _num_heads(self, hidden_size: int) -> int | None:
        """Return the teacher's number of heads where it divides the hidden size sensibly, else the best near it."""
        # numbers that divide the hidden size, into heads of the slot if there is one, no wider than allowed
        choices = [
            num_heads
            for num_heads in self._numbers_of_heads(hidden_size)
            if self.teacher.traits.has_free_heads or self.teacher.traits.head_slot in (None, hidden_size // num_heads)
            if self._head_dim(hidden_size, num_heads) <= self.limit.head_dim
        ]

        def preference(num_heads: int) -> tuple[bool, float]:
            head_dim = self._head_dim(hidden_size, num_heads)
            kept = num_heads == self.full.num_attention_heads and head_dim >= self._sensible_head_dim
            # False sorts first: the teacher's number, unless its heads would be thin
            return not kept, self._head_penalty(num_heads, head_dim)

        return min(choices, key=preference, default=None)

    def _numbers_of_heads(self, hidden_size: int, *, padded: bool = False) -> list[int]:
        traits = self.teacher.traits
        all_divide = traits.heads_divide or not (traits.has_free_heads or padded)
        return [
            number
            for number in range(traits.queries_per_key, self.limit.num_attention_heads + 1, traits.queries_per_key)
            if self.num_attention_heads in (None, number) and not (all_divide and hidden_size % number)
        ]

    def _uniform(self, hidden_size: int, layer: LayerWidths) -> WidthPlan:
        layers = (layer,) * (self.layers or len(self.teacher.layers))
        return dataclasses.replace(self.teacher, hidden_size=hidden_size, layers=layers, embedding_size=None)

    def _head_dim(self, hidden_size: int, num_heads: int) -> int:
        """Return the channels of a head: all that fit, or for narrow attention its share, a multiple of 4."""
        room, traits = hidden_size // num_heads, self.teacher.traits
        if traits.has_free_heads:
            # of a teacher whose attention is wider than its hidden size, the same share
            wider = max(1.0, self.full.attention_size / self.teacher.hidden_size)
            size = max(1, round(self.attention * wider * room / 4)) * 4
            return min(size, self.limit.head_dim) if traits.rotary_kinds else self.limit.head_dim
        # heads fill the hidden size, if attention is not to be narrower or no rotary pair may go
        if self.attention == 1 or (traits.head_slot and not traits.rotary_kinds):
            return min(room, self.limit.head_dim) if traits.head_slot else room
        return min(room, max(1, round(self.attention * room / 4)) * 4)

    def _head_penalty(self, num_heads: int, head_dim: int) -> float:
        # Fused attention pads head sizes that are no multiple of 8, and odd ones are slowest.
        awkward = 0.0 if head_dim % 8 == 0 else 0.01 if head_dim % 4 == 0 else 0.05 if head_dim % 2 == 0 else 0.15
        too_thin = max(0.0, math.log(self._sensible_head_dim / head_dim))
        # logarithms, so that every halving costs the same
        return awkward + 0.1 * math.log(self.full.num_attention_heads / num_heads) + 0.15 * too_thin

    @property
    def _sensible_head_dim(self) -> int:
        return min(_SMALLEST_SENSIBLE_HEAD_DIM, self.full.head_dim)

    def _wanted_ffn(self, hidden_size: int) -> float:
        return (hidden_size / self.teacher.hidden_size) ** self.ffn_power * self.full.intermediate_size

    def _ffn_range(self, hidden_size: int) -> tuple[float, float]:
        """Return the allowed FFN sizes, from half the wanted one to twice the teacher's proportion."""
        if self.hidden_size:
            return self.multiple, self.limit.intermediate_size
        proportional = hidden_size / self.teacher.hidden_size * self.full.intermediate_size
        return self._wanted_ffn(hidden_size) / 2, 2 * proportional

    def _ffn_size(self, num_steps: int) -> int:
        return min(max(num_steps, 1) * self.multiple, self.limit.intermediate_size)


class _PlainSearch(_Search):
    """The plans of the teacher's hidden size with fewer or narrower heads, as only the compact form holds them."""

    def proportional_plans(self) -> list[WidthPlan]:
        """Return, from narrow to wide, a plan for each number of heads and of their channels."""
        slot, pairs = self.teacher.traits.head_slot, self.teacher.traits.rotary_kinds
        whole = self.limit.head_dim
        # whole heads alone where no rotary pair may go
        head_dims = [whole] if slot and not pairs else [*range(4, whole, 4), whole]
        numbers = self._numbers_of_heads(self.teacher.hidden_size, padded=True)
        layers = [
            LayerWidths(num_heads, head_dim, self._ffn_size(round(self._wanted(num_heads * head_dim) / self.multiple)))
            for num_heads, head_dim in itertools.product(numbers, head_dims)
        ]
        layers.sort(key=lambda layer: (layer.attention_size, layer.intermediate_size))
        return [self._uniform(self.teacher.hidden_size, layer) for layer in layers]

    def unlikeness(self, plan: WidthPlan) -> float:
        layer = plan.layers[0]
        distortion = abs(math.log(layer.intermediate_size / self._wanted(layer.attention_size)))
        return distortion + self._head_penalty(layer.num_attention_heads, layer.head_dim)

    def _wanted(self, attention_size: int) -> float:
        return (attention_size / self.full.attention_size) ** _PLAIN_FFN_POWER * self.full.intermediate_size


def _parse(budget: str) -> Budget:
    named = named_widths(budget)
    # with a malformed name behind it the whole text has to match, and is refused
    cost = budget.partition(",")[0] if named else budget
    match = _BUDGET.fullmatch(cost)
    kind = budget.partition("=")[0].strip()
    if kind not in _EXAMPLES:
        examples = [f"{name}={example}" for name, example in _EXAMPLES.items()]
        near = near_name(kind, _EXAMPLES)
        remedy = (
            f"expected one of {', '.join(examples)}" if near is None else f"nearest valid: '{near}={_EXAMPLES[near]}'"
        )
        raise ValueError(f"student={short_repr(budget)} limits no known cost; {remedy}")
    if match is None or (kind != "params" and match[3]):
        raise ValueError(
            f"student={short_repr(budget)} is no number of {kind}; expected a positive number, for params with an "
            "optional suffix k, M or B, for others a fraction of the teacher's encoder, and no more than hidden_size, "
            f"num_attention_heads and layers behind it; for example '{kind}={_EXAMPLES[kind]}' or "
            f"'{kind}={_EXAMPLES[kind]},num_attention_heads=8'"
        )
    return Budget(kind, float(match[2]) * _SUFFIXES[match[3]], named, budget)


def _with_ffn(plan: WidthPlan, intermediate_size: int) -> WidthPlan:
    layer = dataclasses.replace(plan.layers[0], intermediate_size=intermediate_size)
    return dataclasses.replace(plan, layers=(layer,) * len(plan.layers))


def _rounded(value: float, rounding: Callable[[float], int]) -> str:
    return f"{rounding(value * 10_000) / 10_000:.4f}".rstrip("0").rstrip(".")
