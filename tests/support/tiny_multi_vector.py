"""Tiny folders of multi-vector encoders, in both forms of sentence-transformers; without that library."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_embeddings import make_rows, write
from tiny_models import randomized, tiny_config, tiny_tokenizer
from transformers import BertModel, PreTrainedModel

from homodistil_hf.embedding.multi_vector_trainer import MultiVectorDistilTrainer

NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
TOKENS = {"module_input_name": "token_embeddings"}
EXPANSION = {"strategy": "fixed", "attend": False, "token": None, "length": 8}
PROMPTS = {"query": "w5 ", "document": "w6 w7 "}
ASYMMETRIC = {
    "prompts": PROMPTS,
    "skiplist_words": ["w7", "w8", "w9"],
    "query_expansion": EXPANSION,
    "document_length": 10,
}
"""Settings by which queries are read otherwise than documents."""


def make_multi_vector_folder(
    folder: Path,
    *,
    encoder: PreTrainedModel | None = None,
    dense: tuple[int, ...] = (16,),
    normalizes: bool = True,
    padding_side: str = "right",
    skiplist_words: list[str] | None = None,
    skiplist_tasks: Any = None,
    query_length: int | None = None,
    document_length: int | None = None,
    query_expansion: dict[str, Any] | None = None,
    **shared: Any,
) -> Path:
    """Encoder, layers of so many outputs, of several the last with Tanh and a bias, the mask, and length 1."""
    torch.manual_seed(3)
    encoder = encoder or randomized(BertModel(tiny_config()))
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length, tokenizer.padding_side = 12, padding_side
    tokenizer.init_kwargs["padding_side"] = padding_side  # else none is saved
    tokenizer.save_pretrained(folder)
    lengths = {"query_length": query_length, "document_length": document_length, "query_expansion": query_expansion}
    write(folder / "sentence_bert_config.json", {"transformer_task": "feature-extraction"} | lengths)
    kinds = ["Transformer", *["Dense"] * len(dense), "MultiVectorMask", *["Normalize"] * normalizes]
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    size = encoder.config.hidden_size
    for index, (kind, path) in enumerate(zip(kinds, paths, strict=True)):
        (folder / path).mkdir(exist_ok=True)
        if kind == "Dense":
            layer = torch.nn.Linear(size, dense[index - 1], bias=index > 1)
            name = "activation.Tanh" if index > 1 else "linear.Identity"
            values = {"in_features": size, "out_features": dense[index - 1], "bias": index > 1}
            write(
                folder / path / "config.json", {**values, **TOKENS, "activation_function": f"torch.nn.modules.{name}"}
            )
            tensors = {f"linear.{name}": tensor for name, tensor in layer.state_dict().items()}
            save_file(tensors, folder / path / "model.safetensors")
            size = dense[index - 1]
        elif kind == "MultiVectorMask":
            tasks = ["document"] if skiplist_tasks is None else skiplist_tasks
            mask = {"skiplist_words": skiplist_words or [], "skiplist_tasks": tasks, "keep_only_token_ids": None}
            write(folder / path / "config.json", mask)
        elif kind == "Normalize":
            write(folder / path / "config.json", {**TOKENS, "module_output_name": "token_embeddings"})
    modules = enumerate(zip(paths, kinds, strict=True))
    write(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": NEW[kind]} for i, (path, kind) in modules],
    )
    settings = {"model_type": "MultiVectorEncoder", "__version__": {}, "similarity_fn_name": None, **shared}
    write(folder / "config_sentence_transformers.json", settings)
    return folder


def distilling_token_vectors(make_trainer: Any, model: Any, **settings: Any) -> MultiVectorDistilTrainer:
    """A trainer of the fixture `make_trainer` for a multi-vector encoder; a folder not there gets a tiny one."""
    if isinstance(model, Path) and not model.exists():
        make_multi_vector_folder(model)
    data = {"train_dataset": make_rows(), "eval_dataset": make_rows(32, seed=1), "hidden_weight": 1.0}
    return make_trainer(model=model, trainer_class=MultiVectorDistilTrainer, **data | settings)
