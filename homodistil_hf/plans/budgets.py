"""The uniform plan that meets a budget of parameters, encoder MACs or milliseconds, for a teacher of any size.

A budget fixes one number and a plan has five: layers, hidden size, heads, their channels and the FFN size. Of all
plans that meet a budget of MACs or milliseconds, the one wins that ends nearest to the teacher by the law of
shape_law.py. Budgets of parameters keep the teacher's proportions, as embeddings take most of them. Only the compact
form may need padding. A plain student keeps the hidden size, so its FFNs narrow, and in the compact form its heads.
latency.py measures milliseconds. resolve.py reads presets and written plans, and checks plans against the
teacher.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from ..files.messages import near_name, short_repr
from ..files.strict_json import parse_json
from ..models.cost import count_parameters, encoder_macs
from ..models.widths import LayerWidths, WidthPlan, narrowest, nearest_multiples, widths_of, with_embedding
from .shape_law import SHAPE_LAW

TOLERANCE = 0.03
LATENCY_BUDGET = "latency_ms"
WIDTH_MULTIPLE = 8
"""Widths of students are multiples of this number unless asked otherwise."""
FEWER_LAYERS_BELOW = 128
"""Hidden size below which students of fewer, wider layers end nearer their teacher, as docs/method.md measures.

Of teachers of 128 to 384 channels; for wider ones it is an extrapolation."""
EMBEDDINGS_FEWER_LAYERS_BELOW = 192
"""The same of embedding models, as docs/embeddings.md measures."""
NARROWEST_FFN = 1 / 16
"""Share of the teacher's FFN neurons; the students of docs/results.md keep as many or more."""
_OF_MACS = ("macs", "compact_macs")
_EXAMPLES = {"params": "14M", "macs": "0.25", "compact_macs": "0.25"}
_BUDGET = re.compile(r"\s*(\w+)\s*=\s*((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMB]?)\s*", re.ASCII)
_NAMED = re.compile(r"\s*(hidden_size|num_attention_heads|layers)\s*=\s*(\d{1,6})\s*", re.ASCII)
_SHARE = re.compile(r"\s*(?:(\d{0,3}\.?\d{1,9})\s*(%?)|(\d{1,4})\s*/\s*([1-9]\d{0,3}))\s*", re.ASCII)
_SAME_SHARE = 1.01  # shares of MACs that are this near need no plan in between
_SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
_SMALLEST_SENSIBLE_HEAD_DIM = 24
# Channels of heads that are free of the hidden size are multiples of this number, of small heads of its half.
_HEAD_MULTIPLE = 8
_PRICE_OF_ODD_HEADS = 4.0  # in log KL, so that they are taken where nothing else meets a budget
_SMALLER_THAN_PLAIN = ", as plain students keep the hidden size; leave plain out for smaller ones"


class Budget(NamedTuple):
    """A cost to meet: `kind` is a key of `_EXAMPLES`, `named` are given widths, `text` is the user's own."""

    kind: str
    target: float
    named: Mapping[str, int]
    text: str = ""


def refuse_compact_budget(student: str | None) -> None:
    """Refuse, by a ValueError, a budget of the compact form for models that have none, as those of vectors."""
    sizes = listed_students(student) or [student or ""]
    if student and any(size.partition("=")[0].strip() == _OF_MACS[1] for size in sizes):
        raise ValueError(
            f"student={student!r} counts attention narrower than the hidden size, which only a compact export has; "
            f"models of vectors have none: name {student.replace('compact_macs', 'macs')}"
        )


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

    Args:
        budget (`str` or `Budget`):
            `"params=14M"`: parameters of embeddings and encoder, with an optional suffix k, M or B. FFN and attention
            keep the teacher's proportion to the hidden size.
            `"macs=0.25"`: a share of the teacher's encoder MACs at 128 tokens, in the shape that ends nearest to the
            teacher by `SHAPE_LAW`.
            `"compact_macs=0.25"`: the same with attention narrower than the hidden size, unless heads keep all their
            channels. Only the compact export has such attention; a standard one pads it. Stock classes whose heads are
            free of the hidden size may have it with `macs`, too.
            Each may name hidden size, heads and layers as well: `"macs=0.25,hidden_size=216,num_attention_heads=9"`,
            `"macs=0.125,layers=4"`.
        teacher_config (`PreTrainedConfig`): Configuration of a teacher of any supported architecture.
        multiple (`int`): Hidden size and FFN size are multiples of this number, unless they stay the teacher's; at
            least 1.
        within (`WidthPlan`, *optional*): Widths that the plan may not exceed. Default: the teacher's.
        plain (`bool`): Keep the teacher's hidden size. A stock class takes attention's width from it, so FFNs alone
            narrow; for `compact_macs` heads become fewer or narrower as well.
        fewer_layers_below (`int`): If not 0, a budget of MACs that names no width may leave out up to half of the
            layers: as the law says, but so many that the hidden size is no less than this and half of the teacher's,
            if that can be.

    Returns:
        `WidthPlan`: Of the plans within 3 % of the budget, the one that ends nearest to the teacher by the law, or is
        most like it for `params`. If the steps of the hidden size are too large for 3 %, the plan nearest to the
        budget.

    Raises:
        ValueError: `budget` is not understood or out of reach; the message names what is valid.
    """
    budget = parse_budget(budget) if isinstance(budget, str) else budget
    kind, target, named, text = budget
    teacher, widths = widths_of(teacher_config), dict(named)
    if plain and (width := widths.setdefault("hidden_size", teacher.hidden_size)) != teacher.hidden_size:
        raise ValueError(
            f"student={short_repr(text)} names hidden_size={width}, but plain students keep the teacher's "
            f"{teacher.hidden_size}; leave one of both out"
        )
    search = _Search(teacher, multiple, **widths, within=within, is_compact=kind == "compact_macs", plain=plain)
    of_params = kind == "params"
    costs = _Costs(search, teacher_config if of_params else None)
    shapes = search.proportional_shapes() if of_params else search.shapes()
    num_layers = search.layers or len(teacher.layers)
    least, most = search.ffn_range
    smallest, largest = min(costs.of(shapes, least, num_layers)), max(costs.of(shapes, most, num_layers))
    if not smallest <= target <= largest:
        named_text = "".join(f",{name}={width}" for name, width in named.items())
        raise ValueError(
            f"student={short_repr(text or f'{kind}={target}{named_text}')} is out of this teacher's reach; nearest "
            f"valid: from '{kind}={_rounded(smallest, math.ceil)}{named_text}' to "
            f"'{kind}={_rounded(largest, math.floor)}{named_text}'{_SMALLER_THAN_PLAIN if plain else ''}"
        )

    def candidates(depth: int, shape: _Shape) -> Iterator[tuple[tuple[float, float], _Shape, int, int]]:
        base, slope = costs.line(shape, depth)
        exact = (target * costs.unit - base) / slope
        wanted = [exact, search.proportional_ffn(shape)] if of_params else [exact]
        for ffn_size in map(search.nearest_ffn, wanted):
            error = abs((base + slope * ffn_size) / (target * costs.unit) - 1)
            unlike = search.disproportion(shape, ffn_size) if of_params else search.log_kl(shape, ffn_size, depth)
            # within the tolerance all costs are equally good, so that a better shape may win over an exact cost
            yield (max(0.0, error - TOLERANCE), error + unlike), shape, ffn_size, depth

    may_be_fewer = fewer_layers_below and not (plain or of_params or named)
    bests = []
    for depth in range(num_layers, (math.ceil(num_layers / 2) if may_be_fewer else num_layers) - 1, -1):
        if max(costs.of(shapes, most, depth)) < target:
            break  # so few layers can't have so many MACs
        found = itertools.chain.from_iterable(candidates(depth, shape) for shape in shapes)
        bests.append(min(found, key=operator.itemgetter(0)))
    narrowest = max(fewer_layers_below, teacher.hidden_size / 2)
    wide = [one for one in bests if one[1].hidden_size >= narrowest] or bests[-1:]
    _, shape, ffn_size, depth = min(wide, key=operator.itemgetter(0))
    return with_embedding(search.plan(shape, ffn_size, depth), teacher, multiple=multiple)


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
        plain: keep the teacher's hidden size; FFNs narrow, and heads where the class leaves them free.

    Raises:
        ValueError: no plan is that fast, or the teacher itself is; the message names the range.
    """
    teacher = widths_of(teacher_config)
    search = _Search(teacher, multiple, teacher.hidden_size if plain else None, plain=plain)
    least, _ = search.ffn_range
    found = min((search.plan(shape, least, len(teacher.layers)) for shape in search.shapes()), key=encoder_macs)
    smallest, largest = measure(found), measure(teacher)
    if not smallest <= limit_ms <= largest:
        raise ValueError(
            f"student='latency_ms={limit_ms:g}' is out of this teacher's reach on this machine; nearest valid: from "
            f"'latency_ms={_rounded(smallest, math.ceil)}' to 'latency_ms={_rounded(largest, math.floor)}'"
            f"{_SMALLER_THAN_PLAIN if plain else ''}"
        )
    fast, slow = encoder_macs(found) / encoder_macs(teacher), 1.0
    while slow > fast * _SAME_SHARE:
        share = math.sqrt(fast * slow)
        plan = plan_for_budget(Budget("macs", share, {}), teacher_config, multiple=multiple, plain=plain)
        if measure(plan) <= limit_ms:
            # times may not rise with every share, so the largest plan that was measured fast enough counts
            fast, found = share, max(found, plan, key=encoder_macs)
        else:
            slow = share
    return found


class _Shape(NamedTuple):
    """What a uniform plan has beside its FFNs and layers."""

    hidden_size: int
    num_heads: int
    head_dim: int


@dataclasses.dataclass(frozen=True)
class _Search:
    """The uniform plans that a teacher can be pruned to, and how they compare."""

    teacher: WidthPlan
    multiple: int
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    layers: int | None = None
    within: WidthPlan | None = None
    is_compact: bool = False
    plain: bool = False

    def __post_init__(self) -> None:
        owner, whose = self.within or self.teacher, "the member before" if self.within else "the teacher"
        limits = {
            "hidden_size": owner.hidden_size,
            "num_attention_heads": self.limit.num_attention_heads,
            "layers": len(self.teacher.layers),
        }
        for name, most in limits.items():
            width = getattr(self, name)
            if width is not None and not 1 <= width <= most:
                raise ValueError(f"student {name}={width} is outside [1, {most}]; {whose} has {most}")
        shared = self.teacher.traits.queries_per_key
        if self.num_attention_heads and self.num_attention_heads % shared:
            raise ValueError(
                f"student num_attention_heads={self.num_attention_heads}, but {shared} heads of this teacher share a "
                f"key and leave together; nearest valid: {nearest_multiples(self.num_attention_heads, shared)}"
            )

    @functools.cached_property
    def full(self) -> LayerWidths:
        """The widths that every layer of the teacher has."""
        return functools.reduce(narrowest, self.teacher.layers)

    @functools.cached_property
    def limit(self) -> LayerWidths:
        """The largest widths of a uniform plan."""
        return functools.reduce(narrowest, self.within.layers if self.within else (), self.full)

    def plan(self, shape: _Shape, ffn_size: int, num_layers: int) -> WidthPlan:
        layers = (LayerWidths(shape.num_heads, shape.head_dim, ffn_size),) * num_layers
        return dataclasses.replace(self.teacher, hidden_size=shape.hidden_size, layers=layers, embedding_size=None)

    def shapes(self) -> list[_Shape]:
        """Return all shapes that the stock class holds, or the compact form."""
        widest = (self.within or self.teacher).hidden_size
        # the widest itself too, a multiple or not
        hidden_sizes = [*range(self.multiple, widest, self.multiple), widest]
        if self.hidden_size:
            hidden_sizes = [self.hidden_size]
        traits = self.teacher.traits
        most_heads = self.limit.num_attention_heads
        numbers = range(traits.queries_per_key, most_heads + 1, traits.queries_per_key)
        if self.num_attention_heads:
            numbers = range(self.num_attention_heads, self.num_attention_heads + 1)
        all_divide = traits.heads_divide or not (traits.has_free_heads or (self.plain and self.is_compact))
        shapes = [
            _Shape(hidden_size, number, head_dim)
            for hidden_size, number in itertools.product(hidden_sizes, numbers)
            if not (all_divide and hidden_size % number)
            for head_dim in self._head_dims(hidden_size // number)
            # attention is no wider beside the hidden size than the teacher's, or than the hidden size
            if number * head_dim <= hidden_size * max(1.0, self.full.attention_size / self.teacher.hidden_size)
        ]
        if not shapes:
            heads = f"{self.num_attention_heads or most_heads} heads of {self.limit.head_dim} or fewer"
            if self.hidden_size:
                raise ValueError(
                    f"student hidden_size={self.hidden_size} doesn't split into {heads}; name other heads or none"
                )
            raise ValueError(
                f"multiple={self.multiple} leaves no hidden size that splits into {heads}; nearest valid: 1"
            )
        return shapes

    def proportional_shapes(self) -> list[_Shape]:
        """Return of each hidden size the shape whose attention is most like the teacher's."""

        def preference(shape: _Shape) -> tuple[bool, float]:
            # False sorts first: the teacher's number of heads, unless they would be thin
            kept = shape.num_heads == self.full.num_attention_heads and shape.head_dim >= self._sensible_head_dim
            return not kept, self._attention_penalty(shape)

        by_size = itertools.groupby(self.shapes(), key=operator.attrgetter("hidden_size"))
        return [min(shapes, key=preference) for _, shapes in by_size]

    def _head_dims(self, room: int) -> list[int]:
        """Return the possible channels of a head, for which the hidden size has so much room."""
        traits, whole = self.teacher.traits, self.limit.head_dim
        if traits.head_slot not in (None, room) and not (traits.has_free_heads or self.plain):
            return []
        stays_whole = not traits.rotary_kinds and (traits.head_slot or traits.has_free_heads)
        if traits.has_free_heads or (self.is_compact and not stays_whole):
            step = _HEAD_MULTIPLE if whole >= 4 * _HEAD_MULTIPLE else _HEAD_MULTIPLE // 2
            most = whole if traits.has_free_heads or self.plain else min(room, whole)
            # heads that fill the room, but aren't whole, are those of a stock class
            narrower = [] if stays_whole else [*range(step, most, step)]
            return [*narrower, whole] if most == whole else narrower or [most]
        return [room] if room <= whole else []

    @property
    def ffn_range(self) -> tuple[int, int]:
        return min(self.multiple, self.limit.intermediate_size), self.limit.intermediate_size

    def nearest_ffn(self, ffn_size: float) -> int:
        """Return the nearest FFN size that is a multiple or the largest, within the range."""
        least, most = self.ffn_range
        size = round(ffn_size / self.multiple) * self.multiple
        return most if ffn_size > (size + most) / 2 > size else min(max(size, least), most)

    def proportional_ffn(self, shape: _Shape) -> float:
        return shape.hidden_size / self.teacher.hidden_size * self.full.intermediate_size

    def log_kl(self, shape: _Shape, ffn_size: int, num_layers: int) -> float:
        """Return the logarithm of the KL that the law expects, and penalties of odd heads and of least FFNs."""
        full = self.full
        kl = SHAPE_LAW(
            layers=num_layers / len(self.teacher.layers),
            hidden_size=shape.hidden_size / self.teacher.hidden_size,
            num_heads=shape.num_heads / full.num_attention_heads,
            head_dim=shape.head_dim / full.head_dim,
            ffn_size=ffn_size / full.intermediate_size,
        )
        unmeasured = ffn_size < NARROWEST_FFN * full.intermediate_size
        return math.log(kl) + _PRICE_OF_ODD_HEADS * _awkwardness(shape.head_dim) + unmeasured

    def disproportion(self, shape: _Shape, ffn_size: int) -> float:
        """Return the distance of a plan from the teacher's proportions and heads; 0 if it has them."""
        # with a named hidden size the FFN must meet the budget, whatever its proportion
        distortion = 0.0 if self.hidden_size else abs(math.log(ffn_size / self.proportional_ffn(shape)))
        return distortion + self._attention_penalty(shape)

    def _attention_penalty(self, shape: _Shape) -> float:
        full = self.full
        share = shape.num_heads * shape.head_dim / full.attention_size / (shape.hidden_size / self.teacher.hidden_size)
        thin = max(0.0, math.log(self._sensible_head_dim / shape.head_dim))
        # logarithms, so that every halving costs the same
        heads = 0.1 * math.log(full.num_attention_heads / shape.num_heads) + 0.15 * thin
        return abs(math.log(share)) + heads + _awkwardness(shape.head_dim)

    @property
    def _sensible_head_dim(self) -> int:
        return min(_SMALLEST_SENSIBLE_HEAD_DIM, self.full.head_dim)


class _Costs:
    """What the plans of a search cost: parameters where a configuration is given, else MACs.

    Costs are whole numbers of `unit`, so that nothing is rounded, and linear in the FFN size.
    """

    def __init__(self, search: _Search, config: PreTrainedConfig | None):
        self.search, self.config = search, config
        self.unit = encoder_macs(search.teacher) if config is None else 1
        self._known: dict[_Shape, tuple[int, int]] = {}

    def line(self, shape: _Shape, num_layers: int) -> tuple[int, int]:
        """Return the cost without neurons, and that of one more in every layer."""
        if self.config is not None:
            return self._measured(shape, num_layers)
        # every layer has as many MACs
        if shape not in self._known:
            self._known[shape] = self._measured(shape, 1)
        base, slope = self._known[shape]
        return num_layers * base, num_layers * slope

    def of(self, shapes: Iterable[_Shape], ffn_size: int, num_layers: int) -> list[float]:
        """Return costs as a budget has them, of shapes with one FFN size."""
        lines = (self.line(shape, num_layers) for shape in shapes)
        return [(base + slope * ffn_size) / self.unit for base, slope in lines]

    def _measured(self, shape: _Shape, num_layers: int) -> tuple[int, int]:
        base, more = (self._cost(self.search.plan(shape, ffn_size, num_layers)) for ffn_size in (0, 1))
        return base, more - base

    def _cost(self, plan: WidthPlan) -> int:
        if self.config is None:
            return encoder_macs(plan)
        teacher, multiple = self.search.teacher, self.search.multiple
        return count_parameters(with_embedding(plan, teacher, multiple=multiple), self.config)


def _awkwardness(head_dim: int) -> float:
    """Return a penalty: fused attention pads head sizes that are no multiple of 8, and odd ones are slowest."""
    return 0.0 if head_dim % 8 == 0 else 0.01 if head_dim % 4 == 0 else 0.05 if head_dim % 2 == 0 else 0.15


def parse_budget(budget: str) -> Budget:
    """Read a budget of parameters or MACs, as [`plan_for_budget`] takes it; a ValueError of any other text."""
    if listed_students(budget):
        raise ValueError(
            f"student={short_repr(budget)} names several sizes; nested=True has all in one set of weights, else train "
            "one after the other, each from the one before"
        )
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


def _rounded(value: float, rounding: Callable[[float], int]) -> str:
    return f"{rounding(value * 10_000) / 10_000:.4f}".rstrip("0").rstrip(".")
