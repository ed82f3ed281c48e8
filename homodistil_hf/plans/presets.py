"""The presets: named widths for students of a BERT-base. Budgets and plans written out are resolved elsewhere."""

from ..models.widths import LayerWidths, WidthPlan

# The shapes are inferred from the parameter counts that HomoDistil (arXiv 2302.09632) states for BERT-base.
PRESETS = {
    "homobert-base": WidthPlan.uniform(576, 12, LayerWidths(12, 48, 2304)),
    "homobert-small": WidthPlan.uniform(256, 12, LayerWidths(8, 32, 1024)),
    "homobert-xsmall": WidthPlan.uniform(240, 12, LayerWidths(12, 20, 960)),
    "homobert-tiny": WidthPlan.uniform(224, 12, LayerWidths(8, 28, 896)),
}

BERT_BASE = WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072))
