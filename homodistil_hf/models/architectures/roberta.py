"""RoBERTa, XLM-RoBERTa, CamemBERT and data2vec: BERT's layers; a masked-LM head and a classifier of their own."""

from transformers import PreTrainedConfig

from .architecture import HIDDEN, Architecture, heads, linear, norm
from .bert import ATTENTION, LAYER, embeddings

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


def _first_position(config: PreTrainedConfig) -> int:
    if config.pad_token_id is None:
        raise ValueError("pad_token_id is null, but positions begin behind it: set it, as a rule to 1")
    return config.pad_token_id + 1


def _architecture(
    title: str, model_type: str, name: str, *, modeling: str = _MODELING, prefix: str = "roberta"
) -> Architecture:
    return Architecture(
        name=title,
        model_type=model_type,
        modeling=modeling,
        prefix=prefix,
        encoder_name=f"{name}Model",
        heads=heads(name, modeling, masked_lm=MLM_SHAPES, untied=UNTIED, classifier=CLASSIFIER),
        embeddings=embeddings(),
        layer=LAYER,
        layers="encoder.layer",
        attention=ATTENTION,
        mlm_entries=("lm_head.dense",),
        refused={
            f"{name}ForCausalLM": f"it is a decoder: load it as {name}ForMaskedLM if it was trained to see both "
            "directions",
        },
        pooler=linear("pooler.dense", HIDDEN, HIDDEN),
        surplus=(f"{prefix}.pooler.",),
        first_position=_first_position,
    )


ROBERTA = _architecture("RoBERTa", "roberta", "Roberta")
XLM_ROBERTA = _architecture("XLM-RoBERTa", "xlm-roberta", "XLMRoberta")
CAMEMBERT = _architecture("CamemBERT", "camembert", "Camembert")
DATA2VEC_TEXT = _architecture(
    "data2vec",
    "data2vec-text",
    "Data2VecText",
    modeling=f"{__package__}.modeling_homodata2vec",
    prefix="data2vec_text",
)
