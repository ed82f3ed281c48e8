"""Tiny folders of sentence-transformers, in both of its forms, and rows of texts; without that library."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tiny_files import write_teacher
from tiny_models import VOCAB_SIZE, randomized, tiny_config, tiny_tokenizer
from torch.nn import functional as F
from transformers import BertModel, PreTrainedModel

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.embedding.model import POOLINGS, EmbeddingModel, load_embedding_model
from homodistil_hf.embedding.reranker import RerankerDistilTrainer, tokenize_pairs
from homodistil_hf.embedding.trainer import EmbeddingDistilTrainer

OLD = "sentence_transformers.models.{}"
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}


def make_sentence_folder(
    folder: Path,
    *,
    encoder: PreTrainedModel | None = None,
    pooling: str = "mean",
    dense: int | None = None,
    normalizes: bool = True,
    is_new: bool = False,
    padding_side: str = "right",
    **shared: Any,
) -> Path:
    """Encoder, pooling, a Dense with Tanh of so many outputs, and length 1."""
    torch.manual_seed(3)
    encoder = encoder or randomized(BertModel(tiny_config()))
    encoder.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length, tokenizer.padding_side = 12, padding_side
    tokenizer.init_kwargs["padding_side"] = padding_side  # else none is saved
    tokenizer.save_pretrained(folder)
    kinds = ["Transformer", "Pooling", *["Dense"] * (dense is not None), *["Normalize"] * normalizes]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    for path in paths[1:]:
        (folder / path).mkdir()
    size = encoder.config.hidden_size
    old = {"word_embedding_dimension": size} | {switch: name == pooling for name, switch in POOLINGS.items()}
    new = {"embedding_dimension": size, "pooling_mode": pooling}
    write(folder / "1_Pooling" / "config.json", new if is_new else old)
    if dense is not None:
        values = {"in_features": size, "out_features": dense, "bias": True}
        values["activation_function"] = "torch.nn.modules.activation.Tanh"
        write(folder / "2_Dense" / "config.json", values)
        layer = torch.nn.Linear(size, dense)
        tensors = {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
    types = [NEW[kind] if is_new else OLD.format(kind) for kind in kinds]
    modules = enumerate(zip(paths, types, strict=True))
    write(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in modules],
    )
    if not is_new:
        write(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    write(folder / "config_sentence_transformers.json", {"__version__": {}, **shared})
    return folder


def near_models(folder: Path, **shared: Any) -> tuple[EmbeddingModel, EmbeddingModel]:
    """A teacher, which stays in `folder/teacher`, and a model of nearly its weights."""
    teacher, near = (
        load_embedding_model(make_sentence_folder(folder / name, **shared)) for name in ("teacher", "near")
    )
    torch.manual_seed(0)
    for parameter in near.encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return teacher, near


PLAIN = {"hidden_size": 32, "num_attention_heads": 3, "head_dim": 6, "intermediate_size": 24}
"""Widths with the hidden size of the tiny teacher."""


def distilling_embeddings(make_trainer: Any, model: Any, **settings: Any) -> EmbeddingDistilTrainer:
    """A trainer of the fixture `make_trainer` for an embedding model; a folder that isn't there gets a tiny one."""
    if isinstance(model, Path) and not model.exists():
        make_sentence_folder(model)
    data = {"train_dataset": make_rows(), "eval_dataset": make_rows(32, seed=1), "hidden_weight": 1.0}
    return make_trainer(model=model, trainer_class=EmbeddingDistilTrainer, **data | settings)


def distilling_a_reranker(make_trainer: Any, folder: Path, **settings: Any) -> RerankerDistilTrainer:
    """The same for a reranker."""
    model = str(folder if folder.exists() else make_reranker(folder))
    data = {"train_dataset": make_pairs(), "eval_dataset": make_pairs(16, seed=1), "hidden_weight": 1.0}
    return make_trainer(model=model, trainer_class=RerankerDistilTrainer, **data | settings)


def assert_neurons_are_scored_by_gradients(trainer: HomoDistilTrainer) -> None:
    """The scores of the last layer's neurons are Σ |w · gradient| over their weights, up to a factor."""
    parameters = {name.removeprefix("bert."): parameter for name, parameter in trainer.model.named_parameters()}
    products = {name: (tensor * tensor.grad).abs() for name, tensor in parameters.items() if tensor.grad is not None}
    expected = products["encoder.layer.1.intermediate.dense.bias"]
    expected = expected + products["encoder.layer.1.intermediate.dense.weight"].sum(1)
    expected = expected + products["encoder.layer.1.output.dense.weight"].sum(0)
    found = trainer.pruner.unit_scores()["ffn.1"]
    assert float(expected.detach().max()) > 0
    assert torch.allclose(found / found.max(), expected / expected.max(), rtol=1e-4)


def unit_vectors(num_rows: int = 6, size: int = 4, seed: int = 0) -> torch.Tensor:
    """Random directions in float64."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num_rows, size, generator=generator, dtype=torch.float64), dim=-1)


def write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")


def make_rows(num_rows: int = 64, *, seed: int = 0) -> Dataset:
    """Texts of 3 to 10 random words, tokenized."""
    generator = torch.Generator().manual_seed(seed)

    def words() -> list[int]:
        length = int(torch.randint(3, 11, (), generator=generator))
        return torch.randint(5, VOCAB_SIZE, (length,), generator=generator).tolist()

    return Dataset.from_dict({"input_ids": [[2, *words(), 3] for _ in range(num_rows)]})


def make_pairs(num_pairs: int = 40, *, seed: int = 0) -> Dataset:
    """Pairs of texts of four random words each, tokenized."""
    generator = torch.Generator().manual_seed(seed)

    def text() -> str:
        return " ".join(f"w{int(torch.randint(5, 90, (), generator=generator))}" for _ in range(4))

    pairs = Dataset.from_dict({name: [text() for _ in range(num_pairs)] for name in ("first", "second")})
    return tokenize_pairs(pairs, tiny_tokenizer(), max_length=16)


def make_reranker(folder: Path, **values: Any) -> Path:
    """A model with one score a pair."""
    return write_teacher(folder, **{"task": "sequence_classification", "num_labels": 1} | values)
