"""DistilBERT: no segments, names of its own for everything, and a masked-LM head that lies beside the encoder."""

from transformers import DistilBertConfig

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

_MODELING = f"{__package__}.modeling_homodistilbert"
_LABELS = linear("classifier", "num_labels", HIDDEN)


def _head(kind: HeadKind, task: str, shapes: Shapes, untied: Shapes | None = None) -> Head:
    stock = f"DistilBertFor{task}"
    return Head(kind, stock, f"Homo{stock}", _MODELING, shapes, untied or {})


DISTILBERT = EncoderFamily(
    name="DistilBERT",
    model_type="distilbert",
    student_type="homodistilbert",
    stock_config=DistilBertConfig,
    modeling=_MODELING,
    prefix="distilbert",
    encoder_name="DistilBertModel",
    heads=(
        _head(
            MASKED_LM,
            "MaskedLM",
            {
                **linear("vocab_transform", HIDDEN, HIDDEN),
                **norm("vocab_layer_norm"),
                "vocab_projector.bias": ("vocab_size",),
            },
            {"vocab_projector.weight": ("vocab_size", HIDDEN)},
        ),
        _head(SEQUENCE_CLASSIFICATION, "SequenceClassification", linear("pre_classifier", HIDDEN, HIDDEN) | _LABELS),
        _head(TOKEN_CLASSIFICATION, "TokenClassification", _LABELS),
        _head(QUESTION_ANSWERING, "QuestionAnswering", linear("qa_outputs", "num_labels", HIDDEN)),
    ),
    embeddings={
        "embeddings.word_embeddings.weight": ("vocab_size", HIDDEN),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", HIDDEN),
        **norm("embeddings.LayerNorm"),
    },
    layer={
        **linear("attention.q_lin", QUERY, HIDDEN),
        **linear("attention.k_lin", QUERY, HIDDEN),
        **linear("attention.v_lin", VALUE, HIDDEN),
        **linear("attention.out_lin", HIDDEN, VALUE),
        **norm("sa_layer_norm"),
        **linear("ffn.lin1", NEURON, HIDDEN),
        **linear("ffn.lin2", HIDDEN, NEURON),
        **norm("output_layer_norm"),
    },
    layers="transformer.layer",
    attention=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    mlm_entries=("vocab_transform",),
    refused={
        "DistilBertModel": "it has no head to compare logits with: load it as DistilBertForMaskedLM if its checkpoint "
        "has that head, or train one first"
    },
    dropouts=("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"),
    width_names={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
)
