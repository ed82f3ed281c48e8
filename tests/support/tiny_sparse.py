"""Tiny folders of sparse encoders, alone or as the documents of a Router; without sentence-transformers."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_embeddings import make_rows, write
from tiny_models import VOCAB_SIZE, randomized, tiny_config, tiny_tokenizer
from transformers import BertForMaskedLM, PreTrainedModel

from homodistil_hf.embedding.sparse_trainer import SparseDistilTrainer

ROUTER, TABLE = "sentence_transformers.base.modules.router.Router", "query_0_SparseStaticEmbedding"
TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "MLMTransformer": "sentence_transformers.sparse_encoder.models.MLMTransformer",
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
    "SparseStaticEmbedding": "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding",
}


def make_sparse_folder(
    folder: Path,
    *,
    model: PreTrainedModel | None = None,
    activation: str = "relu",
    has_router: bool = False,
    is_new: bool = False,
    padding_side: str = "right",
    **shared: Any,
) -> Path:
    """A masked-LM model and its pooling; of a Router also a table of queries."""
    torch.manual_seed(3)
    model = model or randomized(BertForMaskedLM(tiny_config()))
    kind = "Transformer" if is_new else "MLMTransformer"
    paths = ["document_0_Transformer", "document_1_SpladePooling"] if has_router else ["", "1_SpladePooling"]
    types = dict(zip(paths, (TYPES[kind], TYPES["SpladePooling"]), strict=True))
    for path in paths:
        (folder / path).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / paths[0])
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length, tokenizer.padding_side = 12, padding_side
    tokenizer.init_kwargs["padding_side"] = padding_side  # else none is saved
    tokenizer.save_pretrained(folder / paths[0])
    own = {"transformer_task": "fill-mask"} if is_new else {"do_lower_case": False}
    write(folder / paths[0] / "sentence_bert_config.json", {"max_seq_length": 12, **own})
    size = {"embedding_dimension" if is_new else "word_embedding_dimension": VOCAB_SIZE}
    write(folder / paths[1] / "config.json", {"pooling_strategy": "max", "activation_function": activation, **size})
    if has_router:
        tokenizer.save_pretrained(folder / TABLE)
        write(folder / TABLE / "config.json", {"frozen": True})
        save_file({"weight": torch.rand(VOCAB_SIZE)}, folder / TABLE / "model.safetensors")
        routes = {"query": [TABLE], "document": paths}
        types[TABLE] = TYPES["SparseStaticEmbedding"]
        parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
        write(folder / "router_config.json", {"types": types, "structure": routes, "parameters": parameters})
        types = {"": ROUTER}
    modules = enumerate(types.items())
    write(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in modules],
    )
    settings = {"model_type": "SparseEncoder", "__version__": {}, "similarity_fn_name": "dot", **shared}
    write(folder / "config_sentence_transformers.json", settings)
    return folder


def distilling_sparse_vectors(make_trainer: Any, model: Any, **settings: Any) -> SparseDistilTrainer:
    """A trainer of the fixture `make_trainer` for a sparse encoder; a folder that isn't there gets a tiny one."""
    if isinstance(model, Path) and not model.exists():
        make_sparse_folder(model)
    data = {"train_dataset": make_rows(), "eval_dataset": make_rows(32, seed=1), "hidden_weight": 1.0}
    return make_trainer(model=model, trainer_class=SparseDistilTrainer, **data | settings)
