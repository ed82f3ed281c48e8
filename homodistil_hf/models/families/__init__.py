"""One file a family: its parameter paths and classes as data, and the modelling file that travels in exports."""

from transformers import PreTrainedConfig

from .bert import BERT
from .family import EncoderFamily, Head

FAMILIES = {family.model_type: family for family in (BERT,)}

CONFIG_CLASSES: dict[str, type[PreTrainedConfig]] = {
    config_class.model_type: config_class
    for family in FAMILIES.values()
    for config_class in (family.stock_config, family.student_config)
}
"""Model type → configuration, of teachers and of students."""


def family_of(config: PreTrainedConfig) -> EncoderFamily:
    """The family of a teacher or a student.

    Args:
        config: its own.

    Returns:
        [`EncoderFamily`].

    Raises:
        ValueError: there is none for this model type.
    """
    for family in FAMILIES.values():
        if family.knows(config.model_type):
            return family
    raise ValueError(
        f"model_type={config.model_type!r} is of no family here; expected one of {', '.join(CONFIG_CLASSES)}"
    )


HEADS: dict[str, Head] = {name: head for family in FAMILIES.values() for name, head in family.heads_by_name.items()}
"""Name of a stock or student class, as in `config.json` → its head."""
