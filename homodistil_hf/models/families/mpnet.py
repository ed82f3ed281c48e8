"""MPNet: heads have a column each in one table of distances, which all layers add to their scores."""

from transformers import MPNetConfig

from .family import (
    HEAD,
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
from .roberta import CLASSIFIER, MLM_SHAPES, UNTIED

_MODELING = f"{__package__}.modeling_homompnet"


def _head(kind: HeadKind, task: str, shapes: Shapes, untied: Shapes | None = None) -> Head:
    stock = f"MPNetFor{task}"
    return Head(kind, stock, f"Homo{stock}", _MODELING, shapes, untied or {})


MPNET = EncoderFamily(
    name="MPNet",
    model_type="mpnet",
    student_type="homompnet",
    stock_config=MPNetConfig,
    modeling=_MODELING,
    prefix="mpnet",
    encoder_name="MPNetModel",
    heads=(
        _head(MASKED_LM, "MaskedLM", MLM_SHAPES, UNTIED),
        _head(SEQUENCE_CLASSIFICATION, "SequenceClassification", CLASSIFIER),
        _head(TOKEN_CLASSIFICATION, "TokenClassification", linear("classifier", "num_labels", HIDDEN)),
        _head(QUESTION_ANSWERING, "QuestionAnswering", linear("qa_outputs", "num_labels", HIDDEN)),
    ),
    embeddings={
        "embeddings.word_embeddings.weight": ("vocab_size", HIDDEN),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", HIDDEN),
        **norm("embeddings.LayerNorm"),
        "encoder.relative_attention_bias.weight": ("relative_attention_num_buckets", HEAD),
    },
    layer={
        **linear("attention.attn.q", QUERY, HIDDEN),
        **linear("attention.attn.k", QUERY, HIDDEN),
        **linear("attention.attn.v", VALUE, HIDDEN),
        **linear("attention.attn.o", HIDDEN, VALUE),
        **norm("attention.LayerNorm"),
        **linear("intermediate.dense", NEURON, HIDDEN),
        **linear("output.dense", HIDDEN, NEURON),
        **norm("output.LayerNorm"),
    },
    layers="encoder.layer",
    attention=("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"),
    mlm_entries=("lm_head.dense",),
    refused={
        "MPNetModel": "it has no head to compare logits with: load it as MPNetForMaskedLM if its checkpoint has that "
        "head, or train one first"
    },
    surplus=("mpnet.pooler.",),
    shares_heads=True,
    first_position=lambda config: 2,
    scores_have_positions=True,
)
