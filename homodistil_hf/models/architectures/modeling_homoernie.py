"""ERNIE with widths of its own in every layer; travels inside compact exports as remote code."""

from .modeling_layerwise import BertMaskedLM, student_classes

globals().update(student_classes(__name__, "Ernie", masked_lm=BertMaskedLM))
