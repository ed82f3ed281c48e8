"""One file a family: its parameter paths and classes as data, and the modelling file that travels in exports."""

from transformers import PreTrainedConfig

from .bert import BERT
from .deberta import DEBERTA
from .distilbert import DISTILBERT
from .electra import ELECTRA
from .family import EncoderFamily, Head
from .modernbert import MODERNBERT
from .mpnet import MPNET
from .roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

_ALL = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT, ELECTRA, MPNET, MODERNBERT, DEBERTA)
FAMILIES = {family.model_type: family for family in _ALL}
MODEL_TYPES = tuple(name for family in FAMILIES.values() for name in (family.model_type, family.student_type))
"""Of teachers and of students."""


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """The configuration of one of `MODEL_TYPES`: the stock class, or that of the students."""
    return next(
        family.stock_config if model_type in FAMILIES else family.student_config
        for family in FAMILIES.values()
        if family.knows(model_type)
    )


def family_of(config: PreTrainedConfig) -> EncoderFamily:
    """The family of a teacher or a student."""
    for family in FAMILIES.values():
        if family.knows(config.model_type):
            return family
    raise ValueError(
        f"model_type={config.model_type!r} is of no family here; expected one of {', '.join(MODEL_TYPES)}"
    )


def max_tokens(config: PreTrainedConfig) -> int:
    """Tokens of the longest text that a model has positions for."""
    return family_of(config).max_tokens(config)


HEADS: dict[str, Head] = {name: head for family in FAMILIES.values() for name, head in family.heads_by_name.items()}
"""Name of a stock or student class, as in `config.json` → its head."""
