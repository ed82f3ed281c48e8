from homodistil_hf.tables import figures_line, format_table


def test_columns_line_up():
    rows = [{"name": "teacher", "num_parameters": 1000, "kl": 0.0}, {"name": "a student", "kl": 1.25}]
    assert format_table(rows).splitlines() == [
        "           parameters  KL, nats",
        "teacher         1,000     0.000",
        "a student           –     1.250",
    ]


def test_columns_that_nobody_has_are_left_out():
    assert "latency" not in format_table([{"name": "teacher", "kl": 0.0}])
    assert "12.50" in format_table([{"name": "teacher", "latency_ms": 12.5}])
    assert "34.5%" in format_table([{"name": "teacher", "mlm_accuracy": 0.345}])


def test_figures_in_one_line():
    assert figures_line({"accuracy": 2 / 3, "f1": None, "kind": "diverged"}) == "accuracy 0.6667, f1 –, kind diverged"
    assert figures_line({"cosine": 1.0}, "{:.3f}") == "cosine 1.000"
    assert figures_line({}) == ""
