"""Registers the per-layer-width classes with transformers' Auto classes, when it is imported.

The model type is its own, `homobert`: registering for `bert` would hijack everybody's BERT.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .families.modeling_homobert import (
    HomoBertConfig,
    HomoBertForMaskedLM,
    HomoBertForQuestionAnswering,
    HomoBertForSequenceClassification,
    HomoBertForTokenClassification,
    HomoBertModel,
)

AutoConfig.register(HomoBertConfig.model_type, HomoBertConfig, exist_ok=True)


AutoModel.register(HomoBertConfig, HomoBertModel, exist_ok=True)


AutoModelForMaskedLM.register(HomoBertConfig, HomoBertForMaskedLM, exist_ok=True)


AutoModelForSequenceClassification.register(HomoBertConfig, HomoBertForSequenceClassification, exist_ok=True)


AutoModelForTokenClassification.register(HomoBertConfig, HomoBertForTokenClassification, exist_ok=True)


AutoModelForQuestionAnswering.register(HomoBertConfig, HomoBertForQuestionAnswering, exist_ok=True)
