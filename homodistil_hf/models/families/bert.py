"""BERT: which of its parameters have which units, and its classes, stock and per-layer-width."""

from transformers import BertConfig

from .family import (
    MASKED_LM,
    PROJECTIONS,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    EncoderFamily,
    Head,
    HeadKind,
)

_MODELING = f"{__package__}.modeling_homobert"
_LAYER = "bert.encoder.layer.{l}."
_ANY_LAYER = r"bert\.encoder\.layer\.\d+\."


def _linear(name: str) -> tuple[str, str]:
    return f"{_LAYER}{name}.weight", f"{_LAYER}{name}.bias"


def _head(kind: HeadKind, name: str) -> Head:
    return Head(kind, stock_name=name, student_name=f"Homo{name}", modeling=_MODELING)


_MASKED_LM = _head(MASKED_LM, "BertForMaskedLM")

BERT = EncoderFamily(
    model_type="bert",
    student_type="homobert",
    stock_config=BertConfig,
    modeling=_MODELING,
    student_config_name="HomoBertConfig",
    encoder_name="BertModel",
    student_encoder_name="HomoBertModel",
    heads=(
        _MASKED_LM,
        _head(SEQUENCE_CLASSIFICATION, "BertForSequenceClassification"),
        _head(TOKEN_CLASSIFICATION, "BertForTokenClassification"),
        _head(QUESTION_ANSWERING, "BertForQuestionAnswering"),
    ),
    also_loaded={"BertForPreTraining": _MASKED_LM},
    refused={
        "BertModel": "it has no head to compare logits with: load it as BertForMaskedLM if its checkpoint has that "
        "head, or train one first",
        "BertLMHeadModel": "it is a decoder: load it as BertForMaskedLM if it was trained to see both directions",
    },
    surplus=("bert.pooler.", "cls.seq_relationship."),
    encoder_stack_name="HomoBertEncoder",
    self_attention_name="HomoBertSelfAttention",
    hidden=(
        (r"bert\.embeddings\.(word|position|token_type)_embeddings\.weight", 1),
        (r".*LayerNorm\.(weight|bias)", 0),
        (_ANY_LAYER + r"attention\.self\.(query|key|value)\.weight", 1),
        (_ANY_LAYER + r"attention\.output\.dense\.(weight|bias)", 0),
        (_ANY_LAYER + r"intermediate\.dense\.weight", 1),
        (_ANY_LAYER + r"output\.dense\.(weight|bias)", 0),
        (r"bert\.pooler\.dense\.(weight|bias)", 0),
        (r"bert\.pooler\.dense\.weight", 1),
        (r"cls\.predictions\.transform\.dense\.(weight|bias)", 0),
        (r"cls\.predictions\.transform\.dense\.weight", 1),
        (r"cls\.predictions\.decoder\.weight", 1),
        (r"(classifier|qa_outputs)\.weight", 1),
        (PROJECTIONS + r"\..*weight", 1),
    ),
    query=_linear("attention.self.query"),
    key=_linear("attention.self.key"),
    value=_linear("attention.self.value"),
    attention_output=_linear("attention.output.dense")[:1],
    ffn_rows=_linear("intermediate.dense"),
    ffn_columns=_linear("output.dense")[:1],
    mlm_transform="cls.predictions.transform",
    unpruned=(r"cls\.predictions\.(decoder\.)?bias", r"(classifier|qa_outputs)\.bias"),
    earlier_code=("ae9aad0b0374d5c66568dfcc2930bbaaeb055cc0d75227d1668b11140bb11c7f",),
)
