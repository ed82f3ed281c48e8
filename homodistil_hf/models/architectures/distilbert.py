"""DistilBERT: no segments, names of its own for everything, and a masked-LM head beside the encoder."""

from .architecture import HIDDEN, LABELS, Architecture, embeddings, layer_of, linear, norm

_ATTENTION = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin")

DISTILBERT = Architecture(
    name="DistilBERT",
    model_type="distilbert",
    stock="DistilBert",
    masked_lm={
        **linear("vocab_transform", HIDDEN, HIDDEN),
        **norm("vocab_layer_norm"),
        "vocab_projector.bias": ("vocab_size",),
    },
    untied={"vocab_projector.weight": ("vocab_size", HIDDEN)},
    classifier=linear("pre_classifier", HIDDEN, HIDDEN) | LABELS,
    embeddings=embeddings("word", "position"),
    layer=layer_of(_ATTENTION, ("ffn.lin1", "ffn.lin2"), ("sa_layer_norm", "output_layer_norm")),
    layers="transformer.layer",
    dropouts=("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"),
    width_names={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    },
)
