"""A GGUF file of an encoder that gives vectors, for llama.cpp and what is built on it; the `gguf` package writes it.

The roles of parameters are read from the architecture's table: which of them a matrix has follows from the meanings of
its dimensions. llama.cpp has two forms of such encoders. That of BERT and RoBERTa has tables of words, positions and
segments, and layers of one width with a LayerNorm behind each half. That of ModernBERT has LayerNorms in front, fused
and gated matrices without biases, and rotary positions. Tokenizers are WordPiece in lower case, or BPE of bytes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..models.architectures import architecture_of, max_tokens
from ..models.architectures.architecture import (
    GATE,
    HIDDEN,
    NEURON,
    QUERY_KEY_VALUE,
    VALUE,
    Architecture,
    Shapes,
    biases,
)

_TABLES = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
_MATRICES = {
    ("vocab_size", HIDDEN): "token_embd",
    ("max_position_embeddings", HIDDEN): "position_embd",
    ("type_vocab_size", HIDDEN): "token_types",
    (QUERY_KEY_VALUE, HIDDEN): "attn_qkv",
    (HIDDEN, VALUE): "attn_output",
    (NEURON, HIDDEN): "ffn_up",
    (GATE, HIDDEN): "ffn_up",
    (HIDDEN, NEURON): "ffn_down",
}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
_PREFIX, _SPACE = "##", "\u2581"
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_SPECIAL = {"bos": "cls", "eos": "sep", "sep": "sep", "unk": "unk", "pad": "pad", "mask": "mask"}
"""The format's word for a special token → the tokenizer's."""


def gguf_problem(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Why llama.cpp has no form for an encoder or its tokenizer; empty if it has."""
    config: Any = model.config
    architecture = architecture_of(config)
    if _is_like_modernbert(architecture):
        problem = _modernbert_problem(architecture, config)
    elif _is_like_bert(architecture):
        problem = ""
    else:
        return (
            "this package writes GGUF for encoders like BERT, RoBERTa and ModernBERT, and this one is a "
            f"{architecture.name}"
        )
    activation = getattr(config, architecture.named("hidden_act"))
    if activation not in _ACTIVATIONS:
        problem = f"llama.cpp computes such an encoder with GELU, and this one has the activation {activation!r}"
    return problem or _tokenizer_problem(tokenizer)


def _is_like_bert(architecture: Architecture) -> bool:
    tables = {dims[0] for dims in architecture.embeddings.values() if len(dims) == 2}
    differs = architecture.is_gated or architecture.is_pre_norm or architecture.is_rotary
    differs = differs or architecture.scores_have_positions or architecture.attention is None
    return not differs and tables == set(_TABLES)


def _is_like_modernbert(architecture: Architecture) -> bool:
    has_one_matrix = any(QUERY_KEY_VALUE in dims for dims in architecture.layer.values())
    return has_one_matrix and architecture.is_gated and architecture.is_pre_norm and architecture.is_rotary


def _modernbert_problem(architecture: Architecture, config: Any) -> str:
    present = biases({**architecture.embeddings, **architecture.layer}) - set(architecture.absent(config))
    if present:
        return f"llama.cpp reads a {architecture.name} without biases, and this one has {min(present)}"
    if not architecture.rotary_kinds(config):
        return "llama.cpp gets no scaled rotary positions from this package, and this encoder has them"
    period = _period(config)
    if any((kind == _FULL) != (index % period == 0) for index, kind in enumerate(config.layer_types)):
        return "llama.cpp has full attention in the first layer and at equal distances, and this encoder elsewhere"
    return ""


def _period(config: Any) -> int:
    """Distance between layers with full attention."""
    kinds = config.layer_types
    return kinds.index(_FULL, 1) if _FULL in kinds[1:] else len(kinds)


def _tokenizer_problem(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = _backend(tokenizer)
    if not (_is_lower_wordpiece(backend) or _is_byte_bpe(backend)):
        return (
            "llama.cpp reads WordPiece in lower case and BPE of bytes that puts no space in front, and its tokenizer "
            "is another"
        )
    ids = tokenizer("a")["input_ids"]
    if ids[:1] != [tokenizer.cls_token_id] or ids[-1:] != [tokenizer.sep_token_id]:
        return "llama.cpp puts one token before such a text and one behind it, and its tokenizer doesn't"
    return ""


def _backend(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}


def _is_lower_wordpiece(backend: dict[str, Any]) -> bool:
    is_lower = (backend.get("normalizer") or {}).get("lowercase") is True
    return is_lower and backend["model"]["type"] == "WordPiece"


def _is_byte_bpe(backend: dict[str, Any]) -> bool:
    pieces = backend.get("pre_tokenizer") or {}
    is_plain = pieces.get("type") == "ByteLevel" and pieces.get("use_regex", True) and not pieces["add_prefix_space"]
    kind = (backend.get("normalizer") or {}).get("type", "NFC")
    return is_plain and kind == "NFC" and backend["model"]["type"] == "BPE"


def write_gguf(
    path: Path, *, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str, name: str
) -> None:
    """Write an encoder with float16 matrices.

    Args:
        path: file to write.
        model: of a stock class, without a head; [`gguf_problem`] finds nothing.
        tokenizer: its tokenizer.
        pooling: a name of gguf's `PoolingType`.
        name: of the model.
    """
    import gguf

    config: Any = model.config
    architecture = architecture_of(config)
    is_modern = _is_like_modernbert(architecture)
    writer = gguf.GGUFWriter(path, "modern-bert" if is_modern else "bert")
    writer.add_name(name)
    writer.add_context_length(max_tokens(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.norm_eps if is_modern else config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if is_modern:
        _add_rotary(writer, config)
    _add_tokenizer(writer, tokenizer, config)
    state, first = model.state_dict(), architecture.first_position(config)
    for place, name_of in _names(architecture, config):
        tensor = state[name_of].float()
        # llama.cpp counts positions from 0
        if place == "position_embd.weight":
            tensor = tensor[first:]
        # vectors and the small tables stay float32
        half = tensor.dim() == 2 and place != "position_embd.weight" and place != "token_types.weight"
        writer.add_tensor(place, (tensor.half() if half else tensor).cpu().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_rotary(writer: Any, config: Any) -> None:
    import gguf

    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(config.rope_parameters[_FULL]["rope_theta"])
    if _SLIDING in config.layer_types:
        writer.add_sliding_window(config.local_attention)
        writer.add_sliding_window_pattern(_period(config))
        writer.add_rope_freq_base_swa(config.rope_parameters[_SLIDING]["rope_theta"])


def _names(architecture: Architecture, config: PreTrainedConfig) -> Iterator[tuple[str, str]]:
    """Name in the file and name in the model, of every parameter but a pooler's."""
    absent = set(architecture.absent(config))
    outer = _roles(architecture.embeddings, ("token_embd_norm", "output_norm"))
    attention = dict(zip(architecture.attention, _ATTENTION, strict=True)) if architecture.attention else {}
    norms = ("attn_norm", "ffn_norm") if architecture.is_pre_norm else ("attn_output_norm", "layer_output_norm")
    inner = _roles(architecture.layer, norms) | attention
    for name in architecture.embeddings:
        if name not in absent:
            yield _place(outer, name), name
    for layer in range(config.num_hidden_layers):
        # the first layer may lack parameters, such as the LayerNorm in front of it
        missing = absent | set(() if layer else architecture.not_in_first_layer)
        for name in architecture.layer:
            if name not in missing:
                yield f"blk.{layer}.{_place(inner, name)}", f"{architecture.layers}.{layer}.{name}"


def _roles(shapes: Shapes, norms: tuple[str, ...]) -> dict[str, str]:
    """Module → its name in the file; LayerNorms in the order of the table."""
    # one dimension is a LayerNorm's, two are a matrix's, whose role follows from both
    vectors = [name.rpartition(".")[0] for name, dims in shapes.items() if name.endswith(".weight") and len(dims) == 1]
    roles = dict(zip(vectors, norms, strict=False))
    matrices = ((name.rpartition(".")[0], dims) for name, dims in shapes.items() if len(dims) == 2)
    return roles | {module: _MATRICES[dims] for module, dims in matrices if dims in _MATRICES}


def _place(roles: dict[str, str], name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"{roles[module]}.{kind}"


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    backend = _backend(tokenizer)
    is_bpe = _is_byte_bpe(backend)
    words = {index: word for word, index in tokenizer.get_vocab().items()}
    added = {token["id"]: _CONTROL if token["special"] else _USER_DEFINED for token in backend["added_tokens"]}
    added |= dict.fromkeys(tokenizer.all_special_ids, _CONTROL)
    # where a vocabulary is padded, its last rows have no word
    tokens = [words.get(index, f"[PAD{index}]") for index in range(config.vocab_size)]
    kinds = [added.get(index, _NORMAL if index in words else _CONTROL) for index in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2" if is_bpe else "bert")
    writer.add_tokenizer_pre("gpt-2" if is_bpe else "default")
    if is_bpe:
        merges = backend["model"]["merges"]
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)
    else:
        tokens = [_as_piece(token, kind) for token, kind in zip(tokens, kinds, strict=True)]
    if (num_segments := getattr(config, "type_vocab_size", 0)) > 0:
        writer.add_token_type_count(num_segments)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for name, own in _SPECIAL.items():
        if (index := getattr(tokenizer, f"{own}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(index)


def _as_piece(token: str, kind: int) -> str:
    """A token as llama.cpp has it: a space before each beginning of a word, nothing before other pieces."""
    if kind == _CONTROL:
        return token
    return token[len(_PREFIX) :] if token.startswith(_PREFIX) else f"{_SPACE}{token}"
