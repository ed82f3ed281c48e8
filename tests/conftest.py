"""Shared fixtures: tiny real models, a word-level vocabulary, blocks of tokens. Nothing is downloaded."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hub_clients import Client
from hub_server import Hub
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    PreTrainedModel,
)

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments

VOCAB_SIZE = 96
SEQUENCE_LENGTH = 16
TEACHER_CLASSES = {
    "masked_lm": BertForMaskedLM,
    "sequence_classification": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
}
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real text, tasks and a real teacher beside the checkout, or a skip."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data beside the checkout ({REAL_DATA.name}/ is absent)")
    return REAL_DATA


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> None:
    """Accelerate collects garbage when a training starts: looking through all imported modules took half of a test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """See `tiny_tokenizer`."""
    return tiny_tokenizer()


def tiny_tokenizer() -> BertTokenizer:
    """One token a word: five special ones and w5 … w95."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(5, VOCAB_SIZE)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def tiny_config(**overrides: Any) -> BertConfig:
    """2 layers × 32 hidden, 4 heads × 8, FFN 64."""
    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    return BertConfig(**values | overrides)


def randomized(model: PreTrainedModel, *, std: float = 0.1, seed: int = 0) -> PreTrainedModel:
    """Noise on every parameter, biases and LayerNorms included, so that a forgotten slice shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * std)
    return model.eval()


def make_teacher(task: str = "masked_lm", **config: Any) -> PreTrainedModel:
    """A stock teacher with noise on every parameter."""
    torch.manual_seed(1)
    return randomized(TEACHER_CLASSES[task](tiny_config(**config)))


@pytest.fixture
def teacher() -> PreTrainedModel:
    """A tiny stock `BertForMaskedLM`."""
    return make_teacher()


def make_blocks(num_blocks: int = 64, *, seed: int = 0) -> Dataset:
    """Blocks of random words with [CLS] and [SEP], as `tokenize_to_blocks` gives them."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, VOCAB_SIZE, (num_blocks, SEQUENCE_LENGTH - 2), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": [[2, *row, 3] for row in words], "example_id": list(range(num_blocks))})


@pytest.fixture
def blocks() -> Dataset:
    """64 blocks of 16 tokens."""
    return make_blocks()


@pytest.fixture
def make_trainer(tmp_path: Path, tokenizer: BertTokenizer) -> Callable[..., HomoDistilTrainer]:
    """A trainer to a quarter of the tiny teacher's MACs; takes training arguments and the trainer's own arguments."""

    def make(
        *, model: Any = None, trainer_class: type[HomoDistilTrainer] = HomoDistilTrainer, **settings: Any
    ) -> HomoDistilTrainer:
        fields = HomoDistilTrainingArguments.__dataclass_fields__
        given = {name: settings.pop(name) for name in list(settings) if name not in fields}
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "student": {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32},
            "max_steps": 20,
            "per_device_train_batch_size": 8,
            "pruning_interval_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "teacher_dtype": "float32",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        args = HomoDistilTrainingArguments(**defaults | settings)
        data = {"train_dataset": make_blocks(), "eval_dataset": make_blocks(16, seed=1), "processing_class": tokenizer}
        return trainer_class(make_teacher() if model is None else model, args, **data | given)

    return make


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    """A Hub on this machine; tests take `hub`."""
    with Hub(multipart_size_bytes=4000) as hub:
        yield hub


@pytest.fixture
def hub(hub_server: Hub) -> Hub:
    """The Hub on this machine, empty and healthy."""
    hub_server.reset()
    return hub_server


@pytest.fixture(scope="session")
def hub_client(hub_server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process that uses this package with that Hub."""
    with Client(hub_server.url, tmp_path_factory.mktemp("hub_home")) as client:
        yield client


@pytest.fixture(scope="session")
def stock_client(hub_server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process that has that Hub, but not this package."""
    with Client(hub_server.url, tmp_path_factory.mktemp("stock_home"), with_package=False) as client:
        yield client
