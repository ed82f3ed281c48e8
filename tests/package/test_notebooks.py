"""The notebooks of examples/ run from start to end, and are stored with their outputs."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'homodistil-hf[notebooks]'")
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def outputs(notebook, kind):
    """Text or pictures that the cells of a notebook gave."""
    found = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    if kind == "text":
        return "\n".join(one.get("text", "") for one in found)
    return [one["data"][kind] for one in found if kind in one.get("data", {})]


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_and_a_plot_are_stored(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert outputs(notebook, "image/png")
    text = outputs(notebook, "text")
    assert "smaller" in text
    assert not re.search(r"/(root|home|tmp|work|usr)/", text)


@pytest.mark.docs
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install 'homodistil-hf[notebooks]'")
    for package in ("ipykernel", "matplotlib", "sentence_transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="pip install 'homodistil-hf[notebooks]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOMODISTIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = read(path)
    for cell in notebook.cells:  # the stored outputs are of all steps
        cell.source = re.sub(r"(--max_\w*steps) 150", r"\1 50", cell.source)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    assert outputs(notebook, "image/png")
    text = outputs(notebook, "text")
    if path.stem == "classifier":
        shares = [float(share) for share in re.findall(r"\.onnx: accuracy ([\d.]+) %", text)]
        assert len(shares) == 2
        assert min(shares) > 25  # of five classes or more
    else:
        assert int(re.search(r"(\d+)% of the first hits", text)[1]) > 50
