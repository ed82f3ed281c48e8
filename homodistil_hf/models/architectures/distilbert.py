"""DistilBERT: no segments, names of its own for everything, and a masked-LM head beside the encoder."""

from transformers import DistilBertConfig

from .architecture import HIDDEN, LABELS, NEURON, QUERY, VALUE, Architecture, heads, linear, norm

_MODELING = f"{__package__}.modeling_homodistilbert"


DISTILBERT = Architecture(
    name="DistilBERT",
    model_type="distilbert",
    stock_config=DistilBertConfig,
    modeling=_MODELING,
    prefix="distilbert",
    encoder_name="DistilBertModel",
    heads=heads(
        "DistilBert",
        _MODELING,
        masked_lm={
            **linear("vocab_transform", HIDDEN, HIDDEN),
            **norm("vocab_layer_norm"),
            "vocab_projector.bias": ("vocab_size",),
        },
        untied={"vocab_projector.weight": ("vocab_size", HIDDEN)},
        classifier=linear("pre_classifier", HIDDEN, HIDDEN) | LABELS,
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
    dropouts=("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"),
    width_names={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
)
