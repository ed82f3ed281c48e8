"""A task of one's own: a tiny model, rows in files, and a cache of each test's own."""

import pytest
from own_rows import write_own_task
from tiny_files import own_cache


@pytest.fixture
def cache_of_the_test(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")


@pytest.fixture
def given(tmp_path):
    """See `write_own_task`."""
    return write_own_task(tmp_path)
