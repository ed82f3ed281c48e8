"""One file an architecture: parameter paths and classes as data; and the modelling files that travel in exports."""

import transformers
from transformers import PreTrainedConfig

from .architecture import Architecture, Head
from .bert import BERT, CAMEMBERT, DATA2VEC_TEXT, ELECTRA, ERNIE, ROBERTA, XLM_ROBERTA
from .deberta import DEBERTA
from .distilbert import DISTILBERT
from .llama import EUROBERT, GEMMA3_TEXT, LLAMA, MISTRAL, QWEN3
from .modernbert import MODERNBERT
from .mpnet import MPNET
from .rotary import GTE, JINA_EMBEDDINGS_V3, NOMIC_BERT

_BERTS = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DATA2VEC_TEXT, ERNIE, DISTILBERT, ELECTRA, MPNET, DEBERTA)
_ROTARY = (MODERNBERT, NOMIC_BERT, GTE, JINA_EMBEDDINGS_V3, EUROBERT, LLAMA, MISTRAL, QWEN3, GEMMA3_TEXT)
# older versions of transformers lack some, GTE before 5.15; its list of names imports none of them
_NAMES = frozenset(transformers.__all__)
ARCHITECTURES = {one.model_type: one for one in (*_BERTS, *_ROTARY) if one.config.stock_name in _NAMES}
MODEL_TYPES = tuple(
    name for architecture in ARCHITECTURES.values() for name in (architecture.model_type, architecture.student_type)
)
"""`model_type` of teachers and of students."""


def architecture_named(model_type: object) -> Architecture:
    """Return the architecture that has one of `MODEL_TYPES`."""
    for architecture in ARCHITECTURES.values():
        if model_type in (architecture.model_type, architecture.student_type):
            return architecture
    raise ValueError(f"model_type={model_type!r} is of no architecture here; expected one of {', '.join(MODEL_TYPES)}")


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Return the configuration class of one of `MODEL_TYPES`: the stock class or the students'."""
    architecture = architecture_named(model_type)
    return architecture.config.stock if model_type in ARCHITECTURES else architecture.config.student


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """Return the architecture of a teacher's or a student's configuration, or of one whose class is made from it."""
    # a model of bits has a type of its own
    kinds = (config.model_type, *(getattr(kind, "model_type", None) for kind in type(config).__mro__))
    return architecture_named(next((kind for kind in kinds if kind in MODEL_TYPES), config.model_type))


def max_tokens(config: PreTrainedConfig) -> int:
    """Return the number of tokens of the longest text that a model has positions for.

    Args:
        config: of a model of a supported architecture.

    Raises:
        ValueError: another architecture.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> max_tokens(BertConfig())
    512

    ```
    """
    return config.max_position_embeddings - architecture_of(config).first_position(config)


def has_segments(config: PreTrainedConfig) -> bool:
    """Whether a model reads segments of a pair; without a table, or with a table of one row, it gets none."""
    return getattr(config, "type_vocab_size", 0) > 1


HEADS: dict[str, Head] = {
    name: head for architecture in ARCHITECTURES.values() for name, head in architecture.heads_by_name.items()
}
"""Name of a stock or student class, as in `config.json` → its head."""
