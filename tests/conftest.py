"""Shared fixtures: tiny real models, a trainer, a Hub on this machine. Nothing is downloaded."""

import gc
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from forked_python import WITH_THIS_PACKAGE, ForkedPython
from hub_clients import Client
from hub_server import Hub
from huggingface_hub.errors import LocalEntryNotFoundError
from ranks import Ranks
from tiny_files import own_cache
from tiny_models import make_blocks, make_teacher, tiny_tokenizer
from tiny_trainers import tiny_trainer
from transformers import BertTokenizer, PreTrainedModel

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.export import verify
from homodistil_hf.files import model_files
from homodistil_hf.training import run_facts
from homodistil_hf.training.exact_trainer import ExactTrainer

gc.disable()  # until all tests are collected: what they import is no garbage, and looking through it took seconds

_NUMBERS = itertools.count()
_TESTS = itertools.count()
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real text, tasks and a real teacher beside the checkout, or a skip."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data beside the checkout ({REAL_DATA.name}/ is absent)")
    return REAL_DATA


@pytest.fixture(autouse=True)
def _imports_are_no_garbage() -> None:
    """Accelerate collects garbage when a training starts: looking through all that lives on took half of a test.

    Every few tests, as what they import comes in the course of a session.
    """
    if next(_TESTS) % 8 == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _students_are_timed_once() -> None:
    """Each run times its student for its card; what it takes on this machine is no matter of tests."""
    run_facts._TURNS.update(num_rounds=1, num_warmup=0)


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for() -> Iterator[None]:
    """No test loses power, and a file takes milliseconds; `test_folders.py` looks at what is synced when."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _logged_alike() -> None:
    """Commands choose what the package logs, for the process that they usually are; fixtures run some of them."""
    logging.getLogger("homodistil_hf").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches of each test's own; their folder is made by what needs it."""
    own_cache(monkeypatch, tmp_path_factory.getbasetemp() / "caches" / str(next(_NUMBERS)))


@pytest.fixture(autouse=True)
def _no_kind_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a teacher by name is for; without a network its client would try for 24 s."""

    def no_answer(*args: Any, **settings: Any) -> str:
        raise LocalEntryNotFoundError("no Hub answers")

    monkeypatch.setattr(model_files, "hf_hub_download", no_answer)


@pytest.fixture(scope="session")
def forked_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedPython]:
    """See `ForkedPython`; its process starts with the first call."""
    forked = ForkedPython(tmp_path_factory.mktemp("forked"))
    yield forked
    forked.close()


@pytest.fixture(scope="session")
def forked_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedPython]:
    """A `ForkedPython` that has imported this package."""
    forked = ForkedPython(tmp_path_factory.mktemp("forked"), imports=WITH_THIS_PACKAGE)
    yield forked
    forked.close()


@pytest.fixture(scope="session")
def as_ranks(forked_package: ForkedPython) -> Ranks:
    """See `Ranks`."""
    return Ranks(forked_package)


@pytest.fixture(autouse=True)
def _exports_are_verified_in_a_fork(forked_python: ForkedPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "subprocess", forked_python)


@pytest.fixture
def never_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors must come before training starts."""
    monkeypatch.setattr(ExactTrainer, "train", lambda *words, **settings: pytest.fail("training has started"))


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """See `tiny_tokenizer`."""
    return tiny_tokenizer()


@pytest.fixture
def teacher() -> PreTrainedModel:
    """A tiny stock `BertForMaskedLM`."""
    return make_teacher()


@pytest.fixture
def blocks() -> Dataset:
    """64 blocks of 16 tokens."""
    return make_blocks()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., HomoDistilTrainer]:
    """See `tiny_trainer`; the run's folder is `run` in the test's."""
    return partial(tiny_trainer, tmp_path / "run")


@pytest.fixture
def trained(make_trainer: Callable[..., HomoDistilTrainer]) -> Callable[..., HomoDistilTrainer]:
    """As `make_trainer`, and the trainer has trained."""

    def make(**settings: Any) -> HomoDistilTrainer:
        trainer = make_trainer(**settings)
        trainer.train()
        return trainer

    return make


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    """A Hub on this machine; tests take `hub`."""
    with Hub() as hub:
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
