"""ELECTRA: BERT's layers behind embeddings of a width of their own, which a projection brings to the hidden size."""

from transformers import ElectraConfig

from .bert import ATTENTION, LAYER, embeddings
from .family import (
    EMBEDDING,
    HIDDEN,
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    EncoderFamily,
    Head,
    HeadKind,
    Shapes,
    linear,
    norm,
)
from .roberta import CLASSIFIER

_MODELING = f"{__package__}.modeling_homoelectra"
_PROJECTION = linear("embeddings_project", HIDDEN, EMBEDDING)
_NO_LOGITS = (
    "it tells replaced tokens from others and has no masked-LM head: take the generator of the same size, or a "
    "classifier that was fine-tuned from it"
)


def _head(kind: HeadKind, task: str, shapes: Shapes, untied: Shapes | None = None) -> Head:
    stock = f"ElectraFor{task}"
    return Head(kind, stock, f"Homo{stock}", _MODELING, shapes, untied or {})


def _absent(config: ElectraConfig) -> tuple[str, ...]:
    return tuple(_PROJECTION) if config.embedding_size == config.hidden_size else ()


ELECTRA = EncoderFamily(
    name="ELECTRA",
    model_type="electra",
    student_type="homoelectra",
    stock_config=ElectraConfig,
    modeling=_MODELING,
    prefix="electra",
    encoder_name="ElectraModel",
    heads=(
        _head(
            MASKED_LM,
            "MaskedLM",
            {
                **linear("generator_predictions.dense", EMBEDDING, HIDDEN),
                **norm("generator_predictions.LayerNorm", EMBEDDING),
                "generator_lm_head.bias": ("vocab_size",),
            },
            {"generator_lm_head.weight": ("vocab_size", EMBEDDING)},
        ),
        _head(SEQUENCE_CLASSIFICATION, "SequenceClassification", CLASSIFIER),
        _head(TOKEN_CLASSIFICATION, "TokenClassification", linear("classifier", "num_labels", HIDDEN)),
        _head(QUESTION_ANSWERING, "QuestionAnswering", linear("qa_outputs", "num_labels", HIDDEN)),
    ),
    embeddings={**embeddings(EMBEDDING), **_PROJECTION},
    layer=LAYER,
    layers="encoder.layer",
    attention=ATTENTION,
    mlm_entries=("generator_predictions.dense",),
    refused={
        "ElectraModel": "it has no head to compare logits with: load it as ElectraForMaskedLM if it is a generator",
        "ElectraForPreTraining": _NO_LOGITS,
        "ElectraForCausalLM": "it is a decoder; take a masked-LM encoder",
    },
    absent=_absent,
)
