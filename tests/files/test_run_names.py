"""The name of a model for other readers."""

import pytest

from homodistil_hf.files.provenance import public_name
from homodistil_hf.files.run_names import RESULTS_FILE


@pytest.mark.parametrize("name", ["model", "student"])
def test_a_model_of_a_run_is_called_as_the_run(tmp_path, name):
    folder = tmp_path / "emotions" / name
    folder.mkdir(parents=True)
    assert public_name(str(folder)) == name  # the folder above may be somebody's home
    (folder.parent / RESULTS_FILE).touch()
    assert public_name(str(folder)) == "emotions"
    assert public_name(str(folder.parent)) == "emotions"
