"""Width plans: a student's widths, layer by layer, in JSON and padded. Nothing here needs models or tensors."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from ..files.messages import nearest_valid, short_repr
from .architectures import architecture_of

LAYER_KEYS = ("num_attention_heads", "head_dim", "intermediate_size")
UNIFORM_KEYS = ("hidden_size", *LAYER_KEYS)
PER_LAYER_KEYS = ("hidden_size", "layers")
EMBEDDING_KEY = "embedding_size"
DEPTH_KEY = "num_hidden_layers"
LARGEST_WIDTH = 2**31 - 1
_LAYER_EXAMPLE = '{"num_attention_heads": 8, "head_dim": 32, "intermediate_size": 1024}'

_EXAMPLES = {
    LAYER_KEYS: _LAYER_EXAMPLE,
    UNIFORM_KEYS: '{"hidden_size": 256, ' + _LAYER_EXAMPLE[1:],
    PER_LAYER_KEYS: '{"hidden_size": 256, "layers": [' + _LAYER_EXAMPLE + ", …]}",
}


@dataclasses.dataclass(frozen=True)
class LayerWidths:
    """Widths of one encoder layer.

    Args:
        num_attention_heads (`int`): Heads, at least 1.
        head_dim (`int`): Channels of one head, at least 1.
        intermediate_size (`int`): FFN neurons, at least 1.
    """

    num_attention_heads: int
    head_dim: int
    intermediate_size: int

    @property
    def attention_size(self) -> int:
        """Output channels of the query, key and value projections: heads times head size."""
        return self.num_attention_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class Traits:
    """Properties of an architecture that decide which widths are possible and what they cost.

    Args:
        head_slot (`int`, *optional*): Head size of the stock class, in which every channel has a place (rotary
            positions); `None` where any size will do.
        has_free_heads (`bool`): Whether the stock class has heads of any size, so that they needn't fill the hidden
            size.
        heads_divide (`bool`): Whether the number of its free heads divides the hidden size all the same.
        queries_per_key (`int`): Query heads that share a key and a value head and leave together: numbers of heads are
            its multiples.
        rotary_kinds (`tuple[str, ...]`): With a slot, the kind of each layer; layers of a kind lose the same pairs of
            channels. Empty where heads stay whole.
        ffn_matrices (`int`): Matrices of an FFN between hidden channels and neurons: 2, or 3 where it is gated.
    """

    head_slot: int | None = None
    has_free_heads: bool = False
    heads_divide: bool = False
    queries_per_key: int = 1
    rotary_kinds: tuple[str, ...] = ()
    ffn_matrices: int = 2


@dataclasses.dataclass(frozen=True)
class WidthPlan:
    """Widths of a whole encoder: one hidden size, and the widths of every layer.

    Args:
        hidden_size (`int`): Hidden channels, shared by all layers.
        layers (`tuple[LayerWidths, ...]`): One entry a layer, first layer first; never empty.
        embedding_size (`int`, *optional*): Channels of embeddings that are projected to the hidden size (ELECTRA);
            `None` where they have the hidden size.
        traits (`Traits`): The architecture's; not in files, set by [`of_architecture`].

    Example:
    ```python
    >>> plan = WidthPlan.uniform(256, 12, LayerWidths(8, 32, 1024))
    >>> plan.is_uniform
    True
    >>> plan.to_dict()
    {'hidden_size': 256, 'num_attention_heads': 8, 'head_dim': 32, 'intermediate_size': 1024}
    >>> WidthPlan.from_dict(plan.to_dict(), num_hidden_layers=12) == plan
    True

    ```
    """

    hidden_size: int
    layers: tuple[LayerWidths, ...]
    embedding_size: int | None = None
    traits: Traits = dataclasses.field(default=Traits(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a width plan with layers=() has no layer; expected at least one LayerWidths")

    @classmethod
    def uniform(cls, hidden_size: int, num_hidden_layers: int, widths: LayerWidths) -> WidthPlan:
        """Return the plan in which all `num_hidden_layers` layers have the same `widths`."""
        return cls(hidden_size, (widths,) * num_hidden_layers)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], num_hidden_layers: int) -> WidthPlan:
        """Read a plan in either of its two forms.

        Args:
            values (`Mapping[str, Any]`):
                Uniform: `hidden_size`, `num_attention_heads`, `intermediate_size` and `head_dim`, which may be left
                out where the heads divide the hidden size; `num_hidden_layers` where it has fewer than the encoder.
                Per layer: `hidden_size` and `layers`, a list of mappings with `num_attention_heads`, `head_dim` and
                `intermediate_size`, no longer than the encoder.
            num_hidden_layers (`int`): Layers of the encoder that the plan is for.

        Returns:
            `WidthPlan`: The plan, with one entry a layer.

        Raises:
            ValueError: A key is unknown or missing, a value is no positive integer, the heads do not divide the
                hidden size, or `num_hidden_layers` is more than the encoder has.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"student plan is {short_repr(values)}; expected e.g. {_EXAMPLES[UNIFORM_KEYS]}")
        read = _read_per_layer if "layers" in values else _read_uniform
        return read(values, num_hidden_layers)

    def to_dict(self, *, of_layers: int | None = None) -> dict[str, Any]:
        """Return the plan as JSON values: the uniform form where all layers are equal, else one entry a layer.

        Args:
            of_layers (`int`, *optional*): Layers of the encoder that the plan is for. If the plan has fewer, the
                uniform form names its own number. Default: as many as the plan.
        """
        outer = {"hidden_size": self.hidden_size}
        if self.embedding_size is not None:
            outer["embedding_size"] = self.embedding_size
        if not self.is_uniform:
            return outer | {"layers": [dataclasses.asdict(layer) for layer in self.layers]}
        if of_layers not in (None, len(self.layers)):
            outer[DEPTH_KEY] = len(self.layers)
        return outer | dataclasses.asdict(self.layers[0])

    def to_json(self, *, of_layers: int | None = None) -> str:
        """Return `to_dict()` as one line of JSON, ready to be given as `student`; argument as there."""
        return json.dumps(self.to_dict(of_layers=of_layers))

    @property
    def is_uniform(self) -> bool:
        """Whether all layers have the same widths."""
        return len(set(self.layers)) == 1

    @property
    def is_stock(self) -> bool:
        """Whether the stock class has these widths: layers alike, heads that are free or fill hidden size and slot."""
        layer = self.layers[0]
        fills = self.traits.head_slot in (None, layer.head_dim) and layer.attention_size == self.hidden_size
        divides = not self.traits.heads_divide or self.hidden_size % layer.num_attention_heads == 0
        return self.is_uniform and (divides if self.traits.has_free_heads else fills)

    @property
    def widest(self) -> LayerWidths:
        """The largest number of heads, head size and FFN size over the layers, each on its own."""
        return LayerWidths(*map(max, zip(*map(dataclasses.astuple, self.layers), strict=True)))

    def padded(self, *, of_layers: int | None = None) -> WidthPlan:
        """Return the uniform plan of the stock model that holds this plan.

        FFN neurons are padded up to the widest layer, and so are heads and their channels where the stock class has a
        head size of its own; further heads where their number must divide the hidden size. Other classes derive the
        head size from the hidden size. So heads and head channels are padded up to
        the smallest number of heads that divides the hidden size and gives every layer room. A plan that already has
        this form is returned unchanged.

        Args:
            of_layers (`int`, *optional*): For the message, as in `to_dict`.

        Returns:
            `WidthPlan`: A uniform plan, as wide as this one or wider in every layer, of the same hidden size.

        Raises:
            ValueError: No number of heads divides the hidden size with room for all layers.
        """
        widest = self.widest
        if self.traits.has_free_heads and not self.traits.heads_divide:
            return dataclasses.replace(self, layers=(widest,) * len(self.layers))
        num_heads = _num_fitting_heads(self.hidden_size, widest, self.traits)
        if num_heads is None:
            size = "" if self.traits.has_free_heads else f" of at least head_dim={widest.head_dim}"
            raise ValueError(
                f"student hidden_size={self.hidden_size} cannot be split into at least {widest.num_attention_heads} "
                f"heads{size}, as the stock class needs; "
                f"nearest valid plan: {nearest_paddable(self).to_json(of_layers=of_layers)}"
            )
        head_dim = widest.head_dim if self.traits.has_free_heads else self.hidden_size // num_heads
        layer = LayerWidths(num_heads, head_dim, widest.intermediate_size)
        return dataclasses.replace(self, layers=(layer,) * len(self.layers))


def widths_of(config: PreTrainedConfig) -> WidthPlan:
    """Return the widths of a model of any supported architecture, by its configuration.

    A stock configuration's head size is `hidden_size // num_attention_heads`. The layers of a compact student have
    their own `num_attention_heads`, `head_dim` and `intermediate_size`.

    Raises:
        ValueError: A layer without its own head size has heads that do not divide the hidden size.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> widths_of(BertConfig()).to_dict()
    {'hidden_size': 768, 'num_attention_heads': 12, 'head_dim': 64, 'intermediate_size': 3072}

    ```
    """
    hidden_size = config.hidden_size
    # In transformers 5.14 a config whose layers are all alike has no view of its single layers.
    layers = config.per_layer_config if config.is_heterogeneous else [config] * config.num_hidden_layers
    architecture, widths = architecture_of(config), []
    for layer in layers:
        num_heads = layer.num_attention_heads
        # Stock configs have no head_dim; the compact one's is None where the heads fill the hidden size.
        head_dim = getattr(layer, "head_dim", None)
        if head_dim is None and hidden_size % num_heads:
            raise ValueError(
                f"teacher hidden_size={hidden_size} is not divisible by num_attention_heads={num_heads}; expected a "
                f"config with head_dim, or one of {nearest_multiples(hidden_size, num_heads)} hidden channels"
            )
        widths.append(
            LayerWidths(
                num_heads,
                head_dim or hidden_size // num_heads,
                getattr(layer, architecture.named("intermediate_size")),
            )
        )
    # a student's heads may have lost channels; its softmax scale still has the teacher's head size
    slot = getattr(config, "softmax_head_dim", None) or widths[0].head_dim
    traits = Traits(
        head_slot=slot if architecture.is_rotary else None,
        has_free_heads=architecture.has_free_heads,
        heads_divide=architecture.heads_divide,
        queries_per_key=architecture.queries_per_key(layers[0]),
        rotary_kinds=architecture.rotary_kinds(config),
        ffn_matrices=3 if architecture.is_gated else 2,
    )
    return WidthPlan(hidden_size, tuple(widths), architecture.embedding_size(config), traits)


def of_architecture(plan: WidthPlan, teacher: WidthPlan) -> WidthPlan:
    """Return the same widths with the traits of a teacher's architecture."""
    return dataclasses.replace(plan, traits=teacher.traits)


def with_embedding(plan: WidthPlan, teacher: WidthPlan, *, multiple: int = 8) -> WidthPlan:
    """Give a plan without an embedding size one in the teacher's proportion, if the teacher has one.

    It never equals the hidden size: stock classes would then leave the projection between them out.
    """
    if teacher.embedding_size is None or plan.embedding_size is not None:
        return plan
    wanted = teacher.embedding_size * plan.hidden_size / teacher.hidden_size
    size = min(max(1, round(wanted / multiple)) * multiple, teacher.embedding_size)
    if size == plan.hidden_size:  # one step down, or half of the only one
        size = size - multiple if size > multiple else max(1, size // 2)
    return dataclasses.replace(plan, embedding_size=size)


def nearest_paddable(plan: WidthPlan) -> WidthPlan:
    """Return the plan nearest to `plan`, nowhere wider, that `WidthPlan.padded` accepts; itself if it can be padded.

    Either the hidden size shrinks until the heads fit, or the heads shrink until they fit the hidden size; the one
    that gives up the smaller share of its width is taken. Where heads have a slot, the hidden size becomes a multiple.
    Numbers of heads become multiples of the queries that share a key.
    """
    if plan.traits.has_free_heads:
        shared = plan.traits.queries_per_key
        layers = tuple(
            dataclasses.replace(layer, num_attention_heads=max(1, layer.num_attention_heads // shared) * shared)
            for layer in plan.layers
        )
        widest = dataclasses.replace(plan, layers=layers).widest
        # of the number of heads itself where all below are too small
        sizes = (
            size
            for size in range(plan.hidden_size, 0, -1)
            if not plan.traits.heads_divide or _num_fitting_heads(size, widest, plan.traits)
        )
        return dataclasses.replace(plan, hidden_size=next(sizes, widest.num_attention_heads), layers=layers)
    widest = plan.widest
    # Heads with a slot can't shrink.
    if slot := plan.traits.head_slot:
        hidden_size = max(plan.hidden_size // slot, 1) * slot
        room = LayerWidths(hidden_size // slot, slot, LARGEST_WIDTH)
        layers = tuple(narrowest(layer, room) for layer in plan.layers)
        return dataclasses.replace(plan, hidden_size=hidden_size, layers=layers)
    # Shrink the heads: for each number of heads that divides the hidden size, cut every layer to what fits.
    rooms = (LayerWidths(number, plan.hidden_size // number, LARGEST_WIDTH) for number in _divisors(plan.hidden_size))
    shrunk = (
        dataclasses.replace(plan, layers=tuple(narrowest(layer, room) for layer in plan.layers)) for room in rooms
    )
    narrowed = max(shrunk, key=_total_attention_size)
    # Shrink the hidden size: the largest that some number of heads divides with room for the widest layer.
    hidden_sizes = range(plan.hidden_size, widest.attention_size - 1, -1)
    hidden_size = next((size for size in hidden_sizes if _num_fitting_heads(size, widest, plan.traits)), 0)
    # Compare kept shares, attention's and the hidden size's, multiplied crosswise to stay with whole numbers.
    if _total_attention_size(narrowed) * plan.hidden_size >= hidden_size * _total_attention_size(plan):
        return narrowed
    return dataclasses.replace(plan, hidden_size=hidden_size)


def kept_fractions(kept: WidthPlan, full: WidthPlan) -> dict[str, float]:
    """Return the kept share, in (0, 1], of the units of `hidden`, `attention` (heads times head size) and `ffn`."""
    kept_ffn, full_ffn = (sum(layer.intermediate_size for layer in plan.layers) for plan in (kept, full))
    return {
        "hidden": kept.hidden_size / full.hidden_size,
        "attention": _total_attention_size(kept) / _total_attention_size(full),
        "ffn": kept_ffn / full_ffn,
    }


def _num_fitting_heads(hidden_size: int, widest: LayerWidths, traits: Traits) -> int | None:
    numbers = [number for number in _divisors(hidden_size) if number >= widest.num_attention_heads]
    if traits.has_free_heads:
        return min((number for number in numbers if number % traits.queries_per_key == 0), default=None)
    fitting = (
        number
        for number in numbers
        if hidden_size // number >= widest.head_dim and traits.head_slot in (None, hidden_size // number)
    )
    return min(fitting, default=None)


def _divisors(number: int) -> set[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return {*small, *(number // divisor for divisor in small)}


def narrowest(one: LayerWidths, other: LayerWidths) -> LayerWidths:
    """Return the smaller of each width of two layers."""
    return LayerWidths(*map(min, dataclasses.astuple(one), dataclasses.astuple(other)))


def widest_of(one: WidthPlan, other: WidthPlan) -> WidthPlan:
    """Return the larger of each width of two plans of equally many layers."""
    pairs = [map(dataclasses.astuple, layers) for layers in zip(one.layers, other.layers, strict=True)]
    layers = tuple(LayerWidths(*map(max, *pair)) for pair in pairs)
    embedding_size = max(one.embedding_size or 0, other.embedding_size or 0) or None
    hidden_size = max(one.hidden_size, other.hidden_size)
    return dataclasses.replace(one, hidden_size=hidden_size, layers=layers, embedding_size=embedding_size)


def _total_attention_size(plan: WidthPlan) -> int:
    return sum(layer.attention_size for layer in plan.layers)


def chosen(plan: WidthPlan, layers: Sequence[int]) -> WidthPlan:
    """Return the plan of some layers of a model."""
    return dataclasses.replace(plan, layers=tuple(plan.layers[index] for index in layers))


def _read_uniform(values: Mapping[str, Any], num_hidden_layers: int) -> WidthPlan:
    _check_keys(values, UNIFORM_KEYS, where="student plan", optional=("head_dim", EMBEDDING_KEY, DEPTH_KEY))
    num_layers = _positive_integer(values.get(DEPTH_KEY, num_hidden_layers), f"student {DEPTH_KEY}")
    if num_layers > num_hidden_layers:
        raise ValueError(
            f"student {DEPTH_KEY}={num_layers}, but its teacher has {num_hidden_layers}; nearest valid: "
            f"{num_hidden_layers}"
        )
    hidden_size = _positive_integer(values["hidden_size"], "student hidden_size")
    num_heads = _positive_integer(values["num_attention_heads"], "student num_attention_heads")
    # without a head size the heads fill the hidden size
    if "head_dim" not in values and hidden_size % num_heads:
        raise ValueError(
            f"student hidden_size={hidden_size} is not divisible by num_attention_heads={num_heads}; nearest valid: "
            f"{nearest_multiples(hidden_size, num_heads)}"
        )
    layer = _read_widths({"head_dim": hidden_size // num_heads, **values}, "student")
    return WidthPlan(hidden_size, (layer,) * num_layers, _embedding_size(values))


def _embedding_size(values: Mapping[str, Any]) -> int | None:
    value = values.get(EMBEDDING_KEY)
    return None if value is None else _positive_integer(value, f"student {EMBEDDING_KEY}")


def _read_per_layer(values: Mapping[str, Any], num_hidden_layers: int) -> WidthPlan:
    _check_keys(values, PER_LAYER_KEYS, where="student plan with layers", optional=(EMBEDDING_KEY,))
    hidden_size = _positive_integer(values["hidden_size"], "student hidden_size")
    entries = values["layers"]
    is_list = isinstance(entries, list | tuple) and entries and all(isinstance(entry, Mapping) for entry in entries)
    if not is_list:
        raise ValueError(
            f"student layers={short_repr(entries)}; expected a list of {num_hidden_layers} JSON objects with the keys "
            + ", ".join(LAYER_KEYS)
        )
    for index, entry in enumerate(entries):
        _check_keys(entry, LAYER_KEYS, where=f"student layers[{index}]")
    layers = tuple(_read_widths(entry, f"student layers[{index}]") for index, entry in enumerate(entries))
    return WidthPlan(hidden_size, layers, _embedding_size(values))


def _read_widths(values: Mapping[str, Any], where: str) -> LayerWidths:
    return LayerWidths(**{key: _positive_integer(values[key], f"{where} {key}") for key in LAYER_KEYS})


def nearest_multiples(number: int, divisor: int) -> str:
    """Return the multiples of a divisor below and above a number, in words."""
    below = number // divisor * divisor
    return f"{below}, {below + divisor}" if below else str(divisor)


def _check_keys(
    values: Mapping[str, Any], expected: tuple[str, ...], *, where: str, optional: tuple[str, ...] = ()
) -> None:
    known = (*expected, *(name for name in optional if name not in expected))
    for key in values:
        if key not in known:
            raise ValueError(f"{where} has the unknown key {short_repr(key)}; {nearest_valid(key, known)}")
    missing = [key for key in expected if key not in values and key not in optional]
    if missing:
        given = ", ".join(values) or "no key"
        raise ValueError(f"{where} has {given} but lacks {', '.join(missing)}; a valid plan: {_EXAMPLES[expected]}")


def _positive_integer(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        near = round(value) if isinstance(value, float) and math.isfinite(value) else 64
        raise ValueError(
            f"{name}={short_repr(value)} is no integer; expected a positive integer such as {max(1, near)}"
        )
    if value < 1:
        raise ValueError(f"{name}={short_repr(value)} is not positive; nearest valid: 1")
    return int(value)
