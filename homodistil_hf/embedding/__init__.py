"""Embedding models and rerankers, as folders of sentence-transformers: prune, distil, export, verify, evaluate."""
