"""Pruning a fine-tuned model in minutes without labels or gradients (KCM, arXiv 2204.10211)."""
