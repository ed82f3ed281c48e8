"""RoBERTa, XLM-RoBERTa, CamemBERT and data2vec with widths of their own in every layer; travels in compact exports."""

from .modeling_layerwise import RobertaMaskedLM, student_classes

for stock in ("Roberta", "XLMRoberta", "Camembert", "Data2VecText"):
    globals().update(student_classes(__name__, stock, masked_lm=RobertaMaskedLM))
