"""Llama and Mistral as encoders, with widths of their own in every layer; travels inside compact exports."""

from .modeling_layerwise import GroupedConfig, RotaryLayers, student_classes

for stock in ("Llama", "Mistral"):
    globals().update(student_classes(__name__, stock, GroupedConfig, RotaryLayers))
