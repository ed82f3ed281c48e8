"""Folders with a model of bits: the modelling files in them, and their configuration, checked.

`methods/binarization/folder.py` writes and verifies those with a head, `embedding/folder.py` those of vectors.
"""

from pathlib import Path

from ..files.tensors import check_weights
from .architectures import modeling_binarybert, modeling_homobert, modeling_layerwise
from .architectures.bert import BERT
from .architectures.modeling_binarybert import BinaryBertConfig
from .cost import count_parameters
from .loading import checked_config, config_values
from .widths import widths_of

_MODELING = modeling_binarybert.__name__.rpartition(".")[2]
CODE = tuple(Path(str(module.__file__)) for module in (modeling_binarybert, modeling_homobert, modeling_layerwise))
"""Modelling files that are copied to every folder."""


def auto_map_of(auto_class: str) -> dict[str, str]:
    """What a folder's `config.json` names for transformers: the classes of its modelling file.

    Example:
    ```python
    >>> auto_map_of("AutoModel")["AutoModel"]
    'modeling_binarybert.BinaryBertModel'

    ```
    """
    names = {"AutoConfig": "BinaryBertConfig", auto_class: f"BinaryBert{auto_class.removeprefix('Auto')}"}
    names[auto_class] = names[auto_class].replace("ModelFor", "For")
    return {auto: f"{_MODELING}.{name}" for auto, name in names.items()}


def packed_config(folder: Path, label: str) -> BinaryBertConfig:
    """Read and check the configuration of a folder, and that its weights can be as many; no remote code runs.

    Raises:
        ValueError: it begins with `label`: settings that can't be used, or files that are too small.
    """
    values = config_values(folder, label)
    # the float model of these widths, whose weights take a bit each at least
    as_floats = checked_config(values | {"model_type": BERT.student_type}, BERT.config.student, label)
    check_weights(folder, count_parameters(widths_of(as_floats), as_floats) // 8, label)
    config: BinaryBertConfig = checked_config(values, BinaryBertConfig, label)
    return config
