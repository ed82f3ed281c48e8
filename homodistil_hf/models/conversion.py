"""Teacher → student and student → stock class, without changing a logit.

A model may bear the name of a stock class and compute something else: a class of one's own, adapters inside, another
head, fewer layers. Its student would compute the stock function. So parameters and answers to a batch are compared.
loading.py reads folders, export/export_folder.py writes them.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..files.messages import first_line
from .architectures import ARCHITECTURES, HEADS, MODEL_TYPES, architecture_of, max_tokens
from .architectures.architecture import PROJECTIONS, QUERY_KEY_VALUE, SEQUENCE_CLASSIFICATION
from .architectures.modeling_layerwise import LayerwiseModel, each_rope, layer_head_dim, whole_head_dim
from .cost import check_shapes, parts_of
from .equality import evaluation_mode, relative_difference
from .loading import OUTPUT_KEYS, refuse_architecture, refuse_config, refuse_nonfinite
from .widths import WidthPlan, widths_of

CLASS_KEYS = ("model_type", "architectures", "auto_map", "transformers_version", "dtype")
"""Keys of a configuration that describe a class or a file, not the model's training."""
_SCALES = ("softmax_head_dim", "scale_hidden_size")
"""Sizes of the teacher by whose roots a student divides or multiplies."""
_STUDENT_ONLY_KEYS = (*_SCALES, "head_dim", "rotary_pairs", "rotary_head_dim", "per_layer_config")
_ANSWERS = ("logits", "prediction_logits", "start_logits", "end_logits", "last_hidden_state")
_TOLERANCE = 1e-3
_SHOWN_CHARS = 1000  # of torch's message, which names every parameter
_OF_ADAPTERS = ("lora_", ".base_layer.", "modules_to_save")  # in names of parameters
_MERGE = "merge adapters first: model = model.merge_and_unload()"
_WRAPPERS = {
    "PeftModel": _MERGE,
    "OptimizedModule": "it is compiled: pass the model that torch.compile was given, model._orig_mod",
    "DistributedDataParallel": "pass the model inside, model.module, and launch with torchrun or accelerate",
    "DataParallel": "pass the model inside, model.module",
    "SentenceTransformer": "an embedding model: use EmbeddingDistilTrainer",
    "CrossEncoder": "a reranker: use RerankerDistilTrainer",
}
"""Class that holds a model → the remedy; names, so that none of these packages is imported."""
_ENCODERS = {
    name: architecture.encoder
    for architecture in ARCHITECTURES.values()
    for name in (architecture.encoder.stock_name, architecture.encoder.student_name)
}


def to_student(model: PreTrainedModel, *, needs_head: bool = True, argument: str = "teacher") -> LayerwiseModel:
    """Copy a teacher into the student class with the same head, or with none; outputs stay the same.

    Args:
        model: of a stock class, or a student.
        needs_head: refuse encoders without a head, which predict nothing.
        argument: the user's name for the model in messages.

    Returns:
        A student in float32 on the same device and in the same mode, with weights of its own.

    Raises:
        ValueError: the class or a setting of the model is not supported, or a parameter has another shape than usual.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(
        ...     vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ... )
        >>> student = to_student(BertForMaskedLM(config))
        >>> type(student).__name__, student.config.softmax_head_dim
        ('HomoBertForMaskedLM', 8)
    """
    name = type(model).__name__
    refuse_no_model(model, argument)
    for kind in type(model).__mro__:
        if kind.__name__ in _WRAPPERS:
            raise ValueError(
                f"{argument}={name} is not a model of transformers, but holds one; {_WRAPPERS[kind.__name__]}"
            )
    pair = None if needs_head else _ENCODERS.get(name)
    if pair is None:
        refuse_architecture(name, argument)
        pair = HEADS[name]
    student_class = pair.student
    # a student keeps its own class, which may be a compact export's copy
    if name == student_class.__name__:
        student_class = type(model)
    refuse_config(model.config, argument)
    architecture = architecture_of(model.config)
    config_class = architecture.config.student
    dropped_keys = (*CLASS_KEYS, *OUTPUT_KEYS, *config_class.like_head_dim)
    values = {key: value for key, value in model.config.to_dict().items() if key not in dropped_keys}
    # a stock model divides by the root of its head size, and the student goes on with that scale as it narrows
    if not isinstance(model.config, config_class):
        values |= dict.fromkeys(("head_dim", "softmax_head_dim"), layer_head_dim(model.config))
    if has_own_decoder(model):
        values["tie_word_embeddings"] = False
    with _float32_by_default():
        student = student_class(config_class(**values, **_runtime_settings(model.config)))
    # A pre-training teacher has a pooler and a next-sentence head; a student in training has its projections.
    wanted = student.state_dict().keys()
    surplus = (f"{model.base_model_prefix}.pooler.", *architecture.surplus, f"{PROJECTIONS}.")
    state = {
        name: tensor for name, tensor in model.state_dict().items() if name in wanted or not name.startswith(surplus)
    }
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        # behind torch's first words, which name the student's class
        differences = " ".join(str(error).split()).partition(": ")[2]
        merge = f", and {_MERGE}" if any(part in differences for part in _OF_ADAPTERS) else ""
        raise ValueError(
            f"{argument}={name} is not as its config describes it: {differences[:_SHOWN_CHARS].rstrip('.')}. Load it "
            f"with the stock class's from_pretrained, give the class its own head and its own config{merge}"
        ) from error
    check_shapes(student, argument)
    refuse_nonfinite(student, f"{argument}={type(model).__name__}")
    student.name_or_path = model.name_or_path
    student = student.to(model.device).train(model.training)
    _refuse_other_function(model, student, argument=argument)
    return student


def refuse_no_model(model: Any, argument: str) -> None:
    """Refuse, by a ValueError, an object that is neither a loaded model nor the name of one."""
    if not isinstance(model, str | nn.Module):
        raise ValueError(
            f"{argument} is a {type(model).__name__}; expected a folder, a name on the Hub, or a loaded model"
        )


@torch.no_grad()
def _refuse_other_function(model: PreTrainedModel, student: PreTrainedModel, *, argument: str) -> None:
    """Refuse a model that answers a small batch otherwise than its student, which has the same parameters.

    Models in half precision are taken unseen, as they round, and so are those with another attention than `eager` or
    `sdpa`, whose kernels may want half precision.
    """
    if model.config._attn_implementation not in ("eager", "sdpa") or model.dtype in (torch.float16, torch.bfloat16):
        return
    # two rows of at most 8 tokens, one padded; a stride spreads the tokens over any vocabulary
    config, length = student.config, min(8, max_tokens(student.config))
    tokens_BT = (torch.arange(2 * length, device=student.device) * 7919 + 1).remainder(config.vocab_size)
    mask_BT = torch.ones(2, length, dtype=torch.long, device=student.device)
    mask_BT[1, length - length // 4 :] = 0
    inputs = {"input_ids": tokens_BT.view(2, length), "attention_mask": mask_BT}
    remedy = (
        f"A student computes what transformers' own {type(student).__name__.removeprefix('Homo')} does; give a model "
        "of that class, or train one to it first"
    )
    label = f"{argument}={type(model).__qualname__}"
    head = HEADS.get(type(student).__name__)
    has_class = head is not None and head.kind is SEQUENCE_CLASSIFICATION
    if has_class and architecture_of(config).reads_before_padding and config.pad_token_id is None:
        raise ValueError(
            f"{label} has pad_token_id=null in config.json, but reads a text's class in front of its padding; set it "
            "to the tokenizer's pad_token_id"
        )
    try:
        expected = _answers(model, inputs)
    except Exception as error:  # the user's code may raise anything
        raise ValueError(
            f"{label} can't read a batch of token ids ({type(error).__name__}: {first_line(error)}). {remedy}"
        ) from error
    found = _answers(student, inputs)
    if [answer.shape for answer in expected] != [answer.shape for answer in found]:
        own, usual = ([tuple(answer.shape) for answer in answers] for answers in (expected, found))
        raise ValueError(f"{label} has outputs of shapes {own}, its stock class {usual}. {remedy}")
    if not all(bool(answer.isfinite().all()) for answer in found):
        raise ValueError(
            f"{label}{f', {name!r},' if (name := model.name_or_path) else ''} gives answers to a small batch that are "
            "not finite: its weights are too large; take another copy of it, or an earlier checkpoint"
        )
    differences = [relative_difference(one, other) for one, other in zip(expected, found, strict=True)]
    if not all(difference <= _TOLERANCE for difference in differences):  # NaN is no difference that is allowed
        raise ValueError(
            f"{label} is not the function that its name and config describe: with the same parameters, answers differ "
            f"by {max(differences):.3g} of the largest one. {remedy}"
        )


def _answers(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    # accelerate puts autocast around `forward` and keeps the model's own.
    forward = vars(model).get("_original_forward") or model.forward
    with evaluation_mode(model):
        outputs = forward(**inputs, return_dict=True)
    is_token_BT = inputs["attention_mask"] != 0
    answers = [outputs[name] for name in _ANSWERS if name in outputs]
    # attention kernels differ in what they give padded tokens
    return [answer[is_token_BT] if answer.shape[:2] == is_token_BT.shape else answer for answer in answers]


def to_stock(model: LayerwiseModel) -> PreTrainedModel:
    """Zero-pad a student to uniform widths and return it as the stock class; logits stay the same.

    A zero FFN neuron and a head with zero value rows contribute exactly nothing. A stock class takes its softmax scale
    from the head size D = hidden_size / num_attention_heads, the student from d = `softmax_head_dim`. So query weight
    and bias are multiplied by √(D/d).

    Returns:
        A model of the stock class with the same dtype, device and mode, and weights of its own.

    Raises:
        ValueError: the model is no student, or its stock class can't hold its widths.
    """
    students = {pair.student_name: pair for pair in (*HEADS.values(), *_ENCODERS.values())}
    name = type(model).__name__
    if name not in students:
        raise ValueError(f"model={name} is no student; expected one of {', '.join(students)} (to_student)")
    widths = widths_of(model.config)
    plan, shapes = widths.padded(), architecture_of(model.config).shapes(model)
    stock = students[name].stock(stock_config(model.config, plan)).to(device=model.device, dtype=model.dtype)
    # Projections serve the loss alone, so no stock class has them.
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(f"{PROJECTIONS}.")}
    # A rotary channel turns with the frequency of its place, so padding must put it back into the teacher's place. A
    # class with a head size of its own needs no padding: its configuration names the frequencies.
    pairs = {} if plan.traits.has_free_heads else getattr(model.config, "rotary_pairs", None) or {}
    kinds = plan.traits.rotary_kinds
    state |= scaled_queries(model, plan)
    for name in shapes.keys() & state.keys():
        # a table of distances has a column for each head, as many in all layers
        dims, layer = shapes[name][0], shapes[name][1] or 0
        # every dimension with heads or neurons is brought to the front, padded there and brought back
        for dim, what in enumerate(dims):
            old, new = (parts_of(what, one, one.layers[layer]) for one in (widths, plan))
            kept = pairs.get(kinds[layer]) if kinds and what == QUERY_KEY_VALUE else None
            if old != new or (kept and kept != sorted(kept)):
                padded = _padded_rows(state[name].transpose(0, dim), old, new, kept)
                state[name] = padded.transpose(0, dim).contiguous()
    stock.load_state_dict(state)
    stock.name_or_path = model.name_or_path
    return stock.train(model.training)


@torch.no_grad()
def scaled_queries(model: LayerwiseModel, plan: WidthPlan) -> dict[str, torch.Tensor]:
    """Return the query parameters of a student as a stock class of a plan's widths needs them, copied.

    The head size sets the stock class's softmax scale; scaled queries make up for it. So does a scaled table of words
    where the hidden size sets its factor.
    """
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    scaled: dict[str, torch.Tensor] = {}
    for index, (old, new) in enumerate(zip(widths_of(model.config).layers, plan.layers, strict=True)):
        # √(D/d): D the head size of the stock class, d that of the student's softmax scale
        factor = model.query_factor(new.head_dim, model.config.softmax_head_dim or old.head_dim)
        queries = tuple(f"{prefix}{model.layers_path}.{index}.{name}." for name in model.queries)
        scaled |= {name: value * factor for name, value in model.named_parameters() if name.startswith(queries)}
    if (whole := getattr(model.config, "scale_hidden_size", None)) not in (None, plan.hidden_size):
        table = model.get_input_embeddings().weight
        factor = (whole / plan.hidden_size) ** 0.5
        scaled |= {name: value * factor for name, value in model.named_parameters() if value is table}
    return scaled


@contextmanager
def as_stock_reads_it(model: PreTrainedModel | Any) -> Iterator[dict[str, torch.Tensor]]:
    """Within the block, a student saved by `save_pretrained` has the same outputs in its stock class.

    A stock class takes a student of its own shapes, but divides by another softmax scale and turns channels with other
    frequencies; of other shapes it refuses the weights. So such a student's queries are scaled and its frequencies
    named in the meantime, and then what they were, to the last bit.

    Yields:
        The parameters that differ in the meantime, as they are outside of the block; none for a model that is no
        student, has other shapes, or has the stock scale already.
    """
    is_student = isinstance(model, LayerwiseModel) and model.config.model_type in MODEL_TYPES
    plan = widths_of(model.config) if is_student else None
    sizes = dict(zip(_SCALES, (plan.layers[0].head_dim, plan.hidden_size), strict=True)) if plan else {}
    own = {name: size for name in sizes if (size := getattr(model.config, name, None))}
    stock = {name: sizes[name] for name in own}
    # nothing to scale: no student, shapes that the stock class refuses, or its scale already
    if plan is None or not plan.is_stock or own == stock:
        yield {}
        return
    scaled = scaled_queries(model, plan)
    rope = getattr(model.config, "rope_parameters", None)
    # copies, as dividing by the factor again would round
    exact = {name: model.get_parameter(name).detach().clone() for name in scaled}
    try:
        _put_queries(model, scaled, stock)
        if rope is not None:
            model.config.rope_parameters = stock_config(model.config, plan).rope_parameters
        yield exact
    finally:
        if rope is not None:
            model.config.rope_parameters = rope
        _put_queries(model, exact, own)


@torch.no_grad()
def _put_queries(model: LayerwiseModel, queries: dict[str, torch.Tensor], scales: Mapping[str, int]) -> None:
    for name, values in queries.items():
        model.get_parameter(name).copy_(values)
    for name, size in scales.items():
        setattr(model.config, name, size)


def _padded_rows(
    rows: torch.Tensor, old: tuple[int, ...], new: tuple[int, ...], pairs: list[int] | None
) -> torch.Tensor:
    """Pad rows from old parts to new ones ([`parts_of`]); queries and keys with `pairs` keep their rotary places.

    Channel c of a head turns with channel c + slot/2, where slot is the larger head size.
    """
    # (blocks, heads, channels, …), or (blocks, neurons, …), or (heads, …)
    old_blocks = rows.unflatten(0, old)
    blocks = old_blocks.new_zeros((*new, *rows.shape[1:]))
    blocks[tuple(map(slice, old_blocks.shape))] = old_blocks
    if pairs is not None:
        slot = new[-1]
        # the kept pairs' channels stand in front, in their order: every channel back into its place
        in_front = [*pairs, *(pair + slot // 2 for pair in pairs)]
        order = torch.tensor([*in_front, *sorted({*range(slot)} - {*in_front})])
        blocks = torch.cat([blocks[:2, :, order.argsort()], blocks[2:]])
    return blocks.flatten(0, len(new) - 1)


def has_own_decoder(model: PreTrainedModel) -> bool:
    """Whether a masked-LM head has a decoder of its own instead of the table of words.

    transformers leaves a decoder untied if its stored weights differ from the table, despite `tie_word_embeddings`.
    """
    head = HEADS.get(type(model).__name__)
    can_have = bool(head and head.untied.keys() - set(architecture_of(model.config).absent(model.config)))
    return can_have and model.get_output_embeddings().weight is not model.get_input_embeddings().weight


def stock_config(config: PreTrainedConfig, plan: WidthPlan) -> PreTrainedConfig:
    """Return the stock configuration of a plan that needs no padding, and of a teacher's or student's settings."""
    widths, architecture = plan.layers[0], architecture_of(config)
    dropped_keys = (*CLASS_KEYS, *_STUDENT_ONLY_KEYS, *architecture.config.student.like_head_dim)
    values = {key: value for key, value in config.to_dict().items() if key not in dropped_keys}
    values |= {
        architecture.named("hidden_size"): plan.hidden_size,
        architecture.named("num_attention_heads"): widths.num_attention_heads,
        architecture.named("intermediate_size"): widths.intermediate_size,
        **dict.fromkeys(architecture.config.student.like_hidden_size, plan.hidden_size),
    }
    if plan.embedding_size is not None:
        values["embedding_size"] = plan.embedding_size
    if architecture.has_free_heads:
        head_dim = architecture.named("head_dim")
        if widths.attention_size != plan.hidden_size or hasattr(architecture.config.stock, head_dim):
            values[head_dim] = widths.head_dim
        if hasattr(architecture.config.stock, "num_key_value_heads"):
            values["num_key_value_heads"] = widths.num_attention_heads // plan.traits.queries_per_key
        for pairs in (getattr(config, "rotary_pairs", None) or {}).values():  # of one kind of layers
            rope = functools.partial(_frequencies_of, pairs, config=config)
            values["rope_parameters"] = each_rope(values["rope_parameters"], rope)
    return architecture.config.stock(**values, **_runtime_settings(config))


def _frequencies_of(pairs: list[int], rope: dict[str, Any], *, config: PreTrainedConfig) -> dict[str, Any]:
    """Return the setting by which a stock class turns the channels of some pairs as the teacher does.

    A head of d' channels turns pair i with θ^(−2i/d'), a teacher's of d channels its pair j with θ^(−2j/d).
    transformers' `longrope` divides the first by a factor a pair: θ^(2j/d − 2i/d').
    """
    theta, whole = rope["rope_theta"], whole_head_dim(config)
    factors = [theta ** (2 * pair / whole - index / len(pairs)) for index, pair in enumerate(pairs)]
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


_THETAS_IN_4 = {
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
}
"""Model type → kind of layers → transformers 4's name for their θ."""


def names_in_4(config: PreTrainedConfig) -> dict[str, Any]:
    """What transformers 4 reads of a stock configuration instead of its `rope_parameters`; empty where there are none.

    Without these it takes the class's default θ, and gives other outputs.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in rope:
        own = {name: value for name, value in rope.items() if name != "rope_theta"}
        return {"rope_theta": rope["rope_theta"]} | ({} if own == {"rope_type": "default"} else {"rope_scaling": own})
    names = _THETAS_IN_4.get(config.model_type, {})
    return {name: rope[kind]["rope_theta"] for kind, name in names.items() if kind in rope}


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Make modules in float32: torch's default type may be another one, also of what no file holds."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _runtime_settings(config: PreTrainedConfig) -> dict[str, Any]:
    # to_dict leaves out the attention implementation and renames the path.
    return {"attn_implementation": config._attn_implementation, "name_or_path": config.name_or_path}
