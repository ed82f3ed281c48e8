"""A GGUF file of an encoder that gives vectors, for llama.cpp and what is built on it; the `gguf` package writes it.

The roles of parameters are read from the architecture's table: which of them a matrix has follows from the meanings of
its dimensions. llama.cpp has one form of such encoders: tables of words, positions and segments, layers of one width
with a LayerNorm behind each half, and WordPiece in lower case.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.architectures import architecture_of, max_tokens
from ..models.architectures.architecture import HIDDEN, NEURON, Architecture

_TABLES = {
    "vocab_size": "token_embd",
    "max_position_embeddings": "position_embd",
    "type_vocab_size": "token_types",
}
_PREFIX, _SPACE = "##", "\u2581"
_CONTROL, _NORMAL = 3, 1
_SPECIAL = {"bos": "cls", "eos": "sep", "sep": "sep", "unk": "unk", "pad": "pad", "mask": "mask"}
"""The format's word for a special token → the tokenizer's."""


def gguf_problem(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Why llama.cpp has no form for an encoder or its tokenizer; empty if it has."""
    architecture = architecture_of(model.config)
    first_tables = {dims[0] for dims in architecture.embeddings.values() if len(dims) == 2}
    plain = not (architecture.is_gated or architecture.is_pre_norm or architecture.is_rotary)
    plain = plain and not architecture.scores_have_positions and architecture.attention is not None
    if not plain or first_tables != set(_TABLES) or architecture.first_position(model.config):
        return f"this package writes GGUF for encoders like BERT, and this one is a {architecture.name}"
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    normalizer = backend.get("normalizer") or {}
    if backend.get("model", {}).get("type") != "WordPiece" or normalizer.get("lowercase") is not True:
        return "llama.cpp reads WordPiece in lower case alone for such an encoder, and its tokenizer is another"
    return ""


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
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(name)
    writer.add_context_length(max_tokens(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, tokenizer, config)
    state = model.state_dict()
    for place, name_of in _names(architecture_of(config), config.num_hidden_layers):
        tensor = state[name_of].float()
        half = tensor.dim() == 2 and place != "position_embd.weight" and place != "token_types.weight"
        writer.add_tensor(place, (tensor.half() if half else tensor).cpu().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names(architecture: Architecture, num_layers: int) -> Iterator[tuple[str, str]]:
    """Name in the file and name in the model, of every parameter but a pooler's."""
    for name, dims in architecture.embeddings.items():
        table = _TABLES.get(dims[0]) if len(dims) == 2 else "token_embd_norm"
        yield f"{table}.{name.rpartition('.')[2]}", name
    roles = dict(zip(architecture.attention or (), ("attn_q", "attn_k", "attn_v", "attn_output"), strict=True))
    norms = iter(("attn_output_norm", "layer_output_norm"))
    for name, dims in architecture.layer.items():
        module, _, kind = name.rpartition(".")
        if module not in roles:
            ffn = {(NEURON, HIDDEN): "ffn_up", (HIDDEN, NEURON): "ffn_down"}.get((dims[0], dims[-1]))
            roles[module] = ffn or next(norms)
        for layer in range(num_layers):
            yield f"blk.{layer}.{roles[module]}.{kind}", f"{architecture.layers}.{layer}.{name}"


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    size = config.vocab_size
    words = {index: word for word, index in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    tokens = [words.get(index, f"[PAD{index}]") for index in range(size)]
    kinds = [_CONTROL if index in special or index not in words else _NORMAL for index in range(size)]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_token_list([_as_piece(token, kind) for token, kind in zip(tokens, kinds, strict=True)])
    writer.add_token_types(kinds)
    for name, own in _SPECIAL.items():
        if (index := getattr(tokenizer, f"{own}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(index)


def _as_piece(token: str, kind: int) -> str:
    """A token as llama.cpp has it: a space before each beginning of a word, nothing before other pieces."""
    if kind == _CONTROL:
        return token
    return token[len(_PREFIX) :] if token.startswith(_PREFIX) else f"{_SPACE}{token}"


def gguf_writer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, pooling: str, name: str) -> Any:
    """[`write_gguf`] with all but the path."""
    return partial(write_gguf, model=model, tokenizer=tokenizer, pooling=pooling, name=name)
