"""ELECTRA: BERT's layers behind embeddings of another width and a projection to the hidden size."""

from .architecture import EMBEDDING, HIDDEN, REPLACED_TOKENS, Architecture, Head, heads, linear, norm
from .bert import ATTENTION, LAYER, embeddings
from .roberta import CLASSIFIER

_MODELING = f"{__package__}.modeling_homoelectra"
_PROJECTION = linear("embeddings_project", HIDDEN, EMBEDDING)
_ONE = "one"
_DISCRIMINATOR = Head(
    REPLACED_TOKENS,
    "ElectraForPreTraining",
    "HomoElectraForPreTraining",
    _MODELING,
    linear("discriminator_predictions.dense", HIDDEN, HIDDEN)
    | linear("discriminator_predictions.dense_prediction", _ONE, HIDDEN),
)


ELECTRA = Architecture(
    name="ELECTRA",
    model_type="electra",
    modeling=_MODELING,
    prefix="electra",
    encoder_name="ElectraModel",
    heads=(
        *heads(
            "Electra",
            _MODELING,
            masked_lm={
                **linear("generator_predictions.dense", EMBEDDING, HIDDEN),
                **norm("generator_predictions.LayerNorm", EMBEDDING),
                "generator_lm_head.bias": ("vocab_size",),
            },
            untied={"generator_lm_head.weight": ("vocab_size", EMBEDDING)},
            classifier=CLASSIFIER,
        ),
        _DISCRIMINATOR,
    ),
    embeddings={**embeddings(EMBEDDING), **_PROJECTION},
    layer=LAYER,
    layers="encoder.layer",
    attention=ATTENTION,
    mlm_entries=("generator_predictions.dense",),
    refused={
        "ElectraForCausalLM": "it is a decoder; take a masked-LM encoder",
    },
    absent=lambda config: tuple(_PROJECTION) if config.embedding_size == config.hidden_size else (),
    sizes={_ONE: lambda config: 1},
)
