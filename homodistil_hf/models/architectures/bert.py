"""BERT: its parameters and its classes."""

from .architecture import HIDDEN, LABELS, Architecture, Head, Shapes, heads, layer_of, linear, norm

_MODELING = f"{__package__}.modeling_homobert"
_VOCABULARY = "vocab_size"

ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
FFN, NORMS = ("intermediate.dense", "output.dense"), ("attention.output.LayerNorm", "output.LayerNorm")
LAYER = layer_of(ATTENTION, FFN, NORMS)
"""Parameters of a layer, also of the architectures that took theirs from BERT."""


def embeddings(channels: str = HIDDEN) -> Shapes:
    """Return the tables of words, positions and segments, and their LayerNorm."""
    tables = {"word": _VOCABULARY, "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    return {
        **{f"embeddings.{name}_embeddings.weight": (rows, channels) for name, rows in tables.items()},
        **norm("embeddings.LayerNorm", channels),
    }


def heads_of_bert(name: str, modeling: str, prefix: str) -> tuple[Head, ...]:
    """Return BERT's heads, under the names of an architecture that took them over."""
    return heads(
        name,
        modeling,
        masked_lm={
            **linear("cls.predictions.transform.dense", HIDDEN, HIDDEN),
            **norm("cls.predictions.transform.LayerNorm"),
            "cls.predictions.bias": (_VOCABULARY,),
        },
        untied=linear("cls.predictions.decoder", _VOCABULARY, HIDDEN),
        classifier=linear(f"{prefix}.pooler.dense", HIDDEN, HIDDEN) | LABELS,
    )


_HEADS = heads_of_bert("Bert", _MODELING, "bert")
BERT = Architecture(
    name="BERT",
    model_type="bert",
    modeling=_MODELING,
    prefix="bert",
    encoder_name="BertModel",
    heads=_HEADS,
    embeddings=embeddings(),
    layer=LAYER,
    layers="encoder.layer",
    attention=ATTENTION,
    mlm_entries=("cls.predictions.transform",),
    pooler=linear("pooler.dense", HIDDEN, HIDDEN),
    also_loaded={"BertForPreTraining": _HEADS[0]},
    refused={
        "BertLMHeadModel": "it is a decoder: load it as BertForMaskedLM if it was trained to see both directions",
    },
    surplus=("bert.pooler.", "cls.seq_relationship."),
)
