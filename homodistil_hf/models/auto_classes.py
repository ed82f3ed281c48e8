"""Registers the students' classes with transformers' Auto classes, when it is imported, under types of their own."""

import transformers

from .families import FAMILIES

for _family in FAMILIES.values():
    _config_class = _family.student_config
    transformers.AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    for _name, _class in _family.auto_classes.items():
        if _name != "AutoConfig":
            getattr(transformers, _name).register(_config_class, _class, exist_ok=True)
