"""Weights and activations of one bit, distilled from the float model (BiT, NeurIPS 2022, arXiv 2205.13016)."""
