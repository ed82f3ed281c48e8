from homodistil_hf.tables import format_table


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
