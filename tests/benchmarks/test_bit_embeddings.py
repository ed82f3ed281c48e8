"""The table of embedding models of bits follows from its rows."""

from benchmarks.studies.bit_embeddings import MODELS, STUDY, table
from benchmarks.studies.page import STUDIES, study_named


def row(model, **more):
    found = {"model": model, "bit_steps": 2000, "cosine": 0.9, "neighbours_in_index": 0.8, "qnli": 0.5}
    return found | {"size_bytes": 2_000_000} | more


def test_a_row_a_model_with_times_where_bits_were_multiplied():
    names = ("ONNX Runtime", "ONNX Runtime, int8", "torch", "8 bits")
    latency = {name: {"median_ms": 1.0 + place} for place, name in enumerate(names)}
    rows = [row("a quarter, float"), row("a quarter, 8 bits", times={"latency": latency})]
    header, _, *cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows)]
    assert header[1:6] == ["steps of bits", "cosine, %", "neighbours, %", "QNLI, nDCG@10, %", "MB"]
    shares = ["90.0", "80.0", "50.0", "2.0"]
    assert cells == [
        ["a quarter, float", "", *shares, "", "", "", ""],
        ["a quarter, 8 bits", "2,000", *shares, "1.0", "2.0", "3.0", "4.0"],
    ]
    assert {found["model"] for found in rows} <= {*MODELS}


def test_before_a_record_the_page_says_so(tmp_path, monkeypatch):
    assert table([]) == ["Nothing was measured yet of embedding models of bits."]
    assert study_named("bit_embeddings.STUDY") is STUDY
    assert "bit_embeddings.STUDY" in STUDIES
    monkeypatch.chdir(tmp_path)
    assert STUDY.read() == []
