"""One file a family: its parameter paths as data; what is done with them is one folder up."""

from .bert import BERT

FAMILIES = {family.model_type: family for family in (BERT,)}
