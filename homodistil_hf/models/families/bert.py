"""BERT: the parameters that it is made of, and its classes, stock and per-layer-width."""

from transformers import BertConfig

from .family import (
    HIDDEN,
    MASKED_LM,
    NEURON,
    QUERY,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    VALUE,
    EncoderFamily,
    Head,
    HeadKind,
    Shapes,
    linear,
    norm,
)

_MODELING = f"{__package__}.modeling_homobert"
_VOCABULARY = "vocab_size"

LAYER = {
    **linear("attention.self.query", QUERY, HIDDEN),
    **linear("attention.self.key", QUERY, HIDDEN),
    **linear("attention.self.value", VALUE, HIDDEN),
    **linear("attention.output.dense", HIDDEN, VALUE),
    **norm("attention.output.LayerNorm"),
    **linear("intermediate.dense", NEURON, HIDDEN),
    **linear("output.dense", HIDDEN, NEURON),
    **norm("output.LayerNorm"),
}
"""Parameters of a layer, in all architectures that took theirs from BERT."""
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")


def embeddings(channels: str = HIDDEN) -> Shapes:
    """Tables of words, positions and segments, and their LayerNorm."""
    tables = {"word": _VOCABULARY, "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    return {
        **{f"embeddings.{name}_embeddings.weight": (rows, channels) for name, rows in tables.items()},
        **norm("embeddings.LayerNorm", channels),
    }


def _head(kind: HeadKind, name: str, shapes: Shapes, **more: Shapes) -> Head:
    return Head(kind, stock_name=name, student_name=f"Homo{name}", modeling=_MODELING, shapes=shapes, **more)


_MASKED_LM = _head(
    MASKED_LM,
    "BertForMaskedLM",
    {
        **linear("cls.predictions.transform.dense", HIDDEN, HIDDEN),
        **norm("cls.predictions.transform.LayerNorm"),
        "cls.predictions.bias": (_VOCABULARY,),
    },
    untied=linear("cls.predictions.decoder", _VOCABULARY, HIDDEN),
)
_LABELS = linear("classifier", "num_labels", HIDDEN)

BERT = EncoderFamily(
    name="BERT",
    model_type="bert",
    student_type="homobert",
    stock_config=BertConfig,
    modeling=_MODELING,
    prefix="bert",
    encoder_name="BertModel",
    heads=(
        _MASKED_LM,
        _head(
            SEQUENCE_CLASSIFICATION,
            "BertForSequenceClassification",
            linear("bert.pooler.dense", HIDDEN, HIDDEN) | _LABELS,
        ),
        _head(TOKEN_CLASSIFICATION, "BertForTokenClassification", _LABELS),
        _head(QUESTION_ANSWERING, "BertForQuestionAnswering", linear("qa_outputs", "num_labels", HIDDEN)),
    ),
    embeddings=embeddings(),
    layer=LAYER,
    layers="encoder.layer",
    attention=ATTENTION,
    mlm_entries=("cls.predictions.transform",),
    also_loaded={"BertForPreTraining": _MASKED_LM},
    refused={
        "BertModel": "it has no head to compare logits with: load it as BertForMaskedLM if its checkpoint has that "
        "head, or train one first",
        "BertLMHeadModel": "it is a decoder: load it as BertForMaskedLM if it was trained to see both directions",
    },
    surplus=("bert.pooler.", "cls.seq_relationship."),
    earlier_code=(
        "ae9aad0b0374d5c66568dfcc2930bbaaeb055cc0d75227d1668b11140bb11c7f",
        "513cc965b663f195f12da290d120d7e973636fff5e8204a9bfed1e96d0f9e50b",
    ),
)
