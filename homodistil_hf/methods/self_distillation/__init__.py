"""Further pre-training on a small corpus, regularised by self-distillation (arXiv 2210.02871)."""
