from homodistil_hf.tables import format_plan, format_results, format_table

PLAN = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
COSTS = {
    "architecture": "BertForMaskedLM",
    "num_hidden_layers": 2,
    "plan": PLAN,
    "num_parameters": 1234567,
    "num_encoder_parameters": 1000000,
    "encoder_macs": 4096,
    "size_bytes": 4938268,
}
FRACTIONS = {"num_parameters": 0.25, "encoder_macs": 0.5}


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


def test_the_padded_form_shows_only_where_it_differs():
    costs = {"teacher": COSTS, "student": COSTS, "padded": COSTS, "cost_fractions": FRACTIONS}
    assert "padded" not in format_plan(costs)
    padded = {**costs, "padded": {**COSTS, "plan": {**PLAN, "intermediate_size": 64}, "encoder_macs": 8192}}
    assert "padded to stock BERT" in format_plan(padded)
    assert "8,192" in format_plan(padded)
    assert "parameters 0.250, MACs 0.500" in format_plan(padded)


def test_results_end_with_lines_that_run():
    results = {"models": [{"name": "student", "kl": 0.5}], "num_steps": 1200, "time_s": 61.4}
    text = format_results(results, "runs/it's mine/")
    assert "1,200 steps, 61 s; see runs/it's mine/results.json" in text
    code = [line.strip() for line in text.splitlines()][-3:]
    assert code[1] == """model = AutoModelForMaskedLM.from_pretrained("runs/it's mine/student")"""
    compile("\n".join(code), "lines", "exec")
