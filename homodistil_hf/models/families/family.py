"""What the package has to know of an architecture."""

from dataclasses import dataclass

PROJECTIONS = "projections"
"""Name under which the trainer attaches the projections student → teacher to the student."""


@dataclass(frozen=True)
class EncoderFamily:
    """The parameter paths of one architecture; `{l}` stands for the layer.

    Args:
        model_type: the teacher's `config.model_type`.
        hidden: `(pattern, dim)` of everything that has a hidden channel; patterns are whole-name regular expressions.
        query_key: parameters whose rows are query or key channels.
        value: parameters whose rows are value channels.
        attention_output: parameters whose columns are value channels.
        ffn_rows: parameters whose rows are FFN neurons.
        ffn_columns: parameters whose columns are FFN neurons.
        unpruned: patterns of parameters without any unit (vocabulary and label biases).
    """

    model_type: str
    hidden: tuple[tuple[str, int], ...]
    query_key: tuple[str, ...]
    value: tuple[str, ...]
    attention_output: tuple[str, ...]
    ffn_rows: tuple[str, ...]
    ffn_columns: tuple[str, ...]
    unpruned: tuple[str, ...]
