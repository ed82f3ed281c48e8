"""Embedding models as they are: likeness to a teacher, similarity, retrieval, pairs; nothing is fine-tuned."""
