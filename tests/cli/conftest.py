"""A finished run of the command, and what it was made from."""

import pytest
from tiny_files import own_cache, write_config

from homodistil_hf.cli import main


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Teacher, text and config of a run."""
    folder = tmp_path_factory.mktemp("run of a test")
    write_config(folder, pruning_end_fraction=0.5)
    return folder


@pytest.fixture(scope="session")
def finished(folder, tmp_path_factory):
    """`OUTPUT_DIR` of a run that ended, with checkpoints 4, 8 and 12."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_cache(monkeypatch, tmp_path_factory.mktemp("cache"))
        assert main(["distill", str(folder / "config.json")]) == 0
    return folder / "run"
