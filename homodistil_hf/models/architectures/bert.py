"""BERT and the architectures with its layers: ERNIE, RoBERTa, XLM-RoBERTa, CamemBERT, data2vec and ELECTRA."""

from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from .architecture import EMBEDDING, HIDDEN, LABELS, Architecture, embeddings, layer_of, linear, norm

_ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
FFN, NORMS = ("intermediate.dense", "output.dense"), ("attention.output.LayerNorm", "output.LayerNorm")
POOLER = linear("pooler.dense", HIDDEN, HIDDEN)
_TABLES = ("word", "position", "token_type")
ROBERTA_HEADS: dict[str, Any] = {
    "masked_lm": {
        **linear("lm_head.dense", HIDDEN, HIDDEN),
        **norm("lm_head.layer_norm"),
        "lm_head.bias": ("vocab_size",),
    },
    "untied": linear("lm_head.decoder", "vocab_size", HIDDEN),
    "classifier": {
        **linear("classifier.dense", HIDDEN, HIDDEN),
        **linear("classifier.out_proj", "num_labels", HIDDEN),
    },
}
"""Heads of RoBERTa and of architectures that took them over."""


_architecture = partial(
    Architecture,
    embeddings=embeddings(*_TABLES),
    layer=layer_of(_ATTENTION, FFN, NORMS),
    layers="encoder.layer",
    pooler=POOLER,
)


def bert_heads(prefix: str, *, last_norm: str = "LayerNorm") -> dict[str, Any]:
    """Return BERT's heads, also of an architecture that took them over."""
    return {
        "masked_lm": {
            **linear("cls.predictions.transform.dense", HIDDEN, HIDDEN),
            **norm(f"cls.predictions.transform.{last_norm}"),
            "cls.predictions.bias": ("vocab_size",),
        },
        "untied": linear("cls.predictions.decoder", "vocab_size", HIDDEN),
        "classifier": linear(f"{prefix}.pooler.dense", HIDDEN, HIDDEN) | LABELS,
    }


BERT = _architecture(
    "BERT",
    "bert",
    "Bert",
    **bert_heads("bert"),
    also_loaded=("BertForPreTraining",),
    surplus=("cls.seq_relationship.",),
)

_TASKS = "embeddings.task_type_embeddings.weight"
ERNIE = _architecture(
    "ERNIE",
    "ernie",
    "Ernie",
    **bert_heads("ernie"),
    embeddings={**embeddings(*_TABLES), _TASKS: ("task_type_vocab_size", HIDDEN)},
    absent=lambda config: () if config.use_task_id else (_TASKS,),
)


def _behind_padding(config: PreTrainedConfig) -> int:
    if config.pad_token_id is None:
        raise ValueError("pad_token_id is null, but positions begin behind it: set it, as a rule to 1")
    return config.pad_token_id + 1


_ROBERTA: dict[str, Any] = {**ROBERTA_HEADS, "file": "roberta", "first_position": _behind_padding}
ROBERTA = _architecture("RoBERTa", "roberta", "Roberta", **_ROBERTA)
XLM_ROBERTA = _architecture("XLM-RoBERTa", "xlm-roberta", "XLMRoberta", **_ROBERTA)
CAMEMBERT = _architecture("CamemBERT", "camembert", "Camembert", **_ROBERTA)
DATA2VEC_TEXT = _architecture("data2vec", "data2vec-text", "Data2VecText", **_ROBERTA)

# Its embeddings may have another width, with a projection to the hidden size.
_PROJECTION = linear("embeddings_project", HIDDEN, EMBEDDING)
_ONE = "one"
ELECTRA = _architecture(
    "ELECTRA",
    "electra",
    "Electra",
    masked_lm={
        **linear("generator_predictions.dense", EMBEDDING, HIDDEN),
        **norm("generator_predictions.LayerNorm", EMBEDDING),
        "generator_lm_head.bias": ("vocab_size",),
    },
    untied={"generator_lm_head.weight": ("vocab_size", EMBEDDING)},
    classifier=ROBERTA_HEADS["classifier"],
    replaced_tokens={
        **linear("discriminator_predictions.dense", HIDDEN, HIDDEN),
        **linear("discriminator_predictions.dense_prediction", _ONE, HIDDEN),
    },
    embeddings={**embeddings(*_TABLES, channels=EMBEDDING), **_PROJECTION},
    pooler={},
    absent=lambda config: tuple(_PROJECTION) if config.embedding_size == config.hidden_size else (),
    sizes={_ONE: lambda config: 1},
)
