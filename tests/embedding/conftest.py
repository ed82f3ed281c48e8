"""What all tests of embedding models have."""

from collections.abc import Iterator

import pytest

from homodistil_hf.embedding import deployable


@pytest.fixture(scope="module", autouse=True)
def _queries_are_timed_in_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    """But in the tests of their times: a graph of each model takes 3 to 4 s."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.path.stem != "test_deployable":
            monkeypatch.setattr(deployable, "_NUM_ROUNDS", 1)
            monkeypatch.setattr(deployable, "missing_reason", lambda backend: f"{backend} takes seconds to get ready")
        yield
