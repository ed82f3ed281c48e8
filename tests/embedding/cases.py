"""What the tests of all methods take from embedding models: see tests/support/methods_here.py."""

from pathlib import Path
from typing import Any

from resumed_runs import Run
from tiny_embeddings import make_pairs, make_reranker, make_rows, make_sentence_folder
from transformers import Trainer

from homodistil_hf.embedding.reranker import RerankerDistilTrainer
from homodistil_hf.embedding.trainer import EmbeddingDistilTrainer

PUBLIC_NAMES = [
    *(
        "Cascade",
        "EmbeddingDistilArguments",
        "EmbeddingDistilTrainer",
        "RerankerDistilArguments",
        "RerankerDistilTrainer",
    ),
    *("TeacherVectors", "by_length", "load_embedding_model", "load_teacher_vectors", "tokenize_pairs"),
    *("tokenize_texts", "tokenize_vectors"),
]

PLAIN = {"hidden_size": 32, "num_attention_heads": 3, "head_dim": 6, "intermediate_size": 24}
"""Widths with the hidden size of the tiny teacher."""


def distilling_embeddings(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    model = folder if folder.exists() else make_sentence_folder(folder)
    data = {"train_dataset": make_rows(), "eval_dataset": make_rows(32, seed=1)}
    return make_trainer(model=model, trainer_class=EmbeddingDistilTrainer, hidden_weight=1.0, **data | settings)


def distilling_a_reranker(make_trainer: Any, folder: Path, **settings: Any) -> Trainer:
    model = str(folder if folder.exists() else make_reranker(folder))
    data = {"train_dataset": make_pairs(), "eval_dataset": make_pairs(16, seed=1)}
    return make_trainer(model=model, trainer_class=RerankerDistilTrainer, hidden_weight=1.0, **data | settings)


RESUMED = {
    "embedding": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_embeddings),
    "embedding, axes": Run({"max_steps": 6, "learning_rate": 1e-2, "output": 7}, distilling_embeddings),
    "embedding, plain": Run({"max_steps": 6, "student": PLAIN, "plain": True}, distilling_embeddings),
    "reranker": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_a_reranker),
}
