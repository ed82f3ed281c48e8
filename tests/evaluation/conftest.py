"""A task of one's own: a tiny model and rows in files."""

import pytest
from own_rows import write_own_task


@pytest.fixture
def given(tmp_path):
    """See `write_own_task`."""
    return write_own_task(tmp_path)
