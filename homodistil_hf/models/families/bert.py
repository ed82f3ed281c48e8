"""BERT: which of its parameters have which units, and its classes."""

from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
)

from .family import PROJECTIONS, EncoderFamily
from .modeling_homobert import (
    HomoBertForMaskedLM,
    HomoBertForQuestionAnswering,
    HomoBertForSequenceClassification,
    HomoBertForTokenClassification,
    HomoBertPreTrainedModel,
)

# Stock class name → the class of its student.
STUDENT_CLASSES: dict[str, type[HomoBertPreTrainedModel]] = {
    "BertForMaskedLM": HomoBertForMaskedLM,
    "BertForPreTraining": HomoBertForMaskedLM,
    "BertForSequenceClassification": HomoBertForSequenceClassification,
    "BertForTokenClassification": HomoBertForTokenClassification,
    "BertForQuestionAnswering": HomoBertForQuestionAnswering,
}


# Student class name → the stock class of its standard export.
STOCK_CLASSES: dict[str, type[PreTrainedModel]] = {
    "HomoBertForMaskedLM": BertForMaskedLM,
    "HomoBertForSequenceClassification": BertForSequenceClassification,
    "HomoBertForTokenClassification": BertForTokenClassification,
    "HomoBertForQuestionAnswering": BertForQuestionAnswering,
}


LOADABLE_CLASSES: dict[str, type[PreTrainedModel]] = {
    "BertForPreTraining": BertForMaskedLM,
    **{stock.__name__: stock for stock in STOCK_CLASSES.values()},
    **{student.__name__: student for student in STUDENT_CLASSES.values()},
}


LAYER_PREFIX = "bert.encoder.layer.{}."


_LAYER = "bert.encoder.layer.{l}."


_ANY_LAYER = r"bert\.encoder\.layer\.\d+\."


BERT = EncoderFamily(
    model_type="bert",
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
    query_key=tuple(
        f"{_LAYER}attention.self.{name}.{part}" for name in ("query", "key") for part in ("weight", "bias")
    ),
    value=(f"{_LAYER}attention.self.value.weight", f"{_LAYER}attention.self.value.bias"),
    attention_output=(f"{_LAYER}attention.output.dense.weight",),
    ffn_rows=(f"{_LAYER}intermediate.dense.weight", f"{_LAYER}intermediate.dense.bias"),
    ffn_columns=(f"{_LAYER}output.dense.weight",),
    unpruned=(r"cls\.predictions\.(decoder\.)?bias", r"(classifier|qa_outputs)\.bias"),
)
