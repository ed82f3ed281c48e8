"""Caches of each test's own."""

from pathlib import Path

import pytest
from tiny_files import own_cache


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_cache(monkeypatch, tmp_path / "cache")
