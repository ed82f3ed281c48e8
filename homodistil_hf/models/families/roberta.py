"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, a masked-LM head and a classifier of their own."""

from transformers import CamembertConfig, PreTrainedConfig, RobertaConfig, XLMRobertaConfig

from .bert import ATTENTION, LAYER, embeddings
from .family import (
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

_MODELING = f"{__package__}.modeling_homoroberta"
MLM_SHAPES = {
    **linear("lm_head.dense", HIDDEN, HIDDEN),
    **norm("lm_head.layer_norm"),
    "lm_head.bias": ("vocab_size",),
}
UNTIED = linear("lm_head.decoder", "vocab_size", HIDDEN)
CLASSIFIER = {
    **linear("classifier.dense", HIDDEN, HIDDEN),
    **linear("classifier.out_proj", "num_labels", HIDDEN),
}


def _family(title: str, model_type: str, name: str, config: type[PreTrainedConfig]) -> EncoderFamily:
    def head(kind: HeadKind, task: str, shapes: Shapes, untied: Shapes | None = None) -> Head:
        stock = f"{name}For{task}"
        return Head(kind, stock, f"Homo{stock}", _MODELING, shapes, untied or {})

    return EncoderFamily(
        name=title,
        model_type=model_type,
        student_type=f"homo{model_type}",
        stock_config=config,
        modeling=_MODELING,
        prefix="roberta",
        encoder_name=f"{name}Model",
        heads=(
            head(MASKED_LM, "MaskedLM", MLM_SHAPES, UNTIED),
            head(SEQUENCE_CLASSIFICATION, "SequenceClassification", CLASSIFIER),
            head(TOKEN_CLASSIFICATION, "TokenClassification", linear("classifier", "num_labels", HIDDEN)),
            head(QUESTION_ANSWERING, "QuestionAnswering", linear("qa_outputs", "num_labels", HIDDEN)),
        ),
        embeddings=embeddings(),
        layer=LAYER,
        layers="encoder.layer",
        attention=ATTENTION,
        mlm_entries=("lm_head.dense",),
        refused={
            f"{name}Model": f"it has no head to compare logits with: load it as {name}ForMaskedLM if its checkpoint "
            "has that head, or train one first",
            f"{name}ForCausalLM": f"it is a decoder: load it as {name}ForMaskedLM if it was trained to see both "
            "directions",
        },
        surplus=("roberta.pooler.",),
        first_position=lambda config: config.pad_token_id + 1,
    )


ROBERTA = _family("RoBERTa", "roberta", "Roberta", RobertaConfig)
XLM_ROBERTA = _family("XLM-RoBERTa", "xlm-roberta", "XLMRoberta", XLMRobertaConfig)
CAMEMBERT = _family("CamemBERT", "camembert", "Camembert", CamembertConfig)
