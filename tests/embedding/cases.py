"""What the tests of all methods take from embedding models: see tests/support/methods_here.py."""

from resumed_runs import Run
from tiny_embeddings import PLAIN, distilling_a_reranker, distilling_embeddings

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

RESUMED = {
    "embedding": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_embeddings),
    "embedding, axes": Run({"max_steps": 6, "learning_rate": 1e-2, "output": 7}, distilling_embeddings),
    "embedding, plain": Run({"max_steps": 6, "student": PLAIN, "plain": True}, distilling_embeddings),
    "reranker": Run({"max_steps": 8, "learning_rate": 1e-2}, distilling_a_reranker),
}
