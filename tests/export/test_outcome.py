"""What was won, in rows and in a line, of facts of all kinds."""

from rows import each

from homodistil_hf.export.outcome import held_out_metrics, measured_on, outcome_line, outcome_rows, shown, widths_in

TEACHER = {"size_bytes": 36_000_000, "num_parameters": 9_000_000, "encoder_macs": 4_000_000}
STUDENT = {"size_bytes": 10_000_000, "num_parameters": 2_500_000, "encoder_macs": 1_000_000}
LATENCY = {"teacher_ms": 10.5, "student_ms": 5.0, "batch_size": 8, "length": 128, "device": "cpu"}
FACTS = {
    "teacher": TEACHER,
    "student": STUDENT,
    "latency": LATENCY,
    "teacher_evaluation": {"kl": 0.0, "task_accuracy": 0.8, "task_loss": 0.5},
    "evaluation": {"kl": 0.25, "loss": 0.75, "task_accuracy": 0.6, "task_loss": 0.75, "kept_fraction_ffn": 0.5},
}


def test_a_users_metric_that_is_measured_anyway_has_one_row():
    metrics = FACTS["evaluation"] | {"accuracy": 0.6, "f1": 0.7}
    labels = [row.label for row in outcome_rows(FACTS | {"evaluation": metrics})]
    assert labels.count("accuracy") == 1
    assert "F1" in labels


def test_rows_of_a_classifier():
    assert [row[1:] for row in outcome_rows(FACTS)] == [
        ("weights", "36 MB", "10 MB", "3.6× smaller"),
        ("parameters", "9,000,000", "2,500,000", "3.6× fewer"),
        ("encoder multiply–accumulates a token", "4,000,000", "1,000,000", "4× fewer"),
        ("ms for 8 texts of 128 tokens, on cpu", "10.5", "5", "2.1× faster"),
        ("accuracy", "80.0 %", "60.0 %", "75 %"),
        ("KL to the teacher, nats a prediction", "0", "0.25", ""),
        ("loss of the labels", "0.5", "0.75", ""),
    ]


@each(
    ("changes", "line"),
    [
        ({}, "3.6× smaller, 2.1× faster here, keeps 75 % of accuracy"),
        ({"latency": LATENCY | {"student_ms": 21.0}}, "3.6× smaller, 2× slower here, keeps 75 % of accuracy"),
        ({"latency": {}, "teacher_evaluation": {}}, "3.6× smaller"),
        ({"data": {"num_held_out_rows": 80}}, "3.6× smaller, 2.1× faster here, keeps 75 % of accuracy on 80 rows"),
        ({"data": {"num_held_out_rows": 872}}, "3.6× smaller, 2.1× faster here, keeps 75 % of accuracy"),
        (
            {"data": {"num_held_out_rows": 872, "num_labelled_eval_rows": 6}},
            "3.6× smaller, 2.1× faster here, keeps 75 % of accuracy on 6 rows",
        ),
        ({"student": TEACHER}, "2.1× faster here, keeps 75 % of accuracy"),
        (
            {"student": {name: round(0.99 * cost) for name, cost in TEACHER.items()}},
            "2.1× faster here, keeps 75 % of accuracy",
        ),
        ({"latency": LATENCY | {"student_ms": 10.6}}, "3.6× smaller, as fast here, keeps 75 % of accuracy"),
        (
            {
                "teacher_evaluation": {"task_accuracy": 1.0, "span_f1": 0.8},
                "evaluation": {"task_accuracy": 1.0, "span_f1": 0.6},
            },
            "3.6× smaller, 2.1× faster here, keeps 75 % of F1 of spans",
        ),
        (
            {
                "teacher_evaluation": {"task_accuracy": 0.8, "exact_match": 50.0, "f1": 80.0},
                "evaluation": {"task_accuracy": 0.2, "exact_match": 50.0, "f1": 60.0},
            },
            "3.6× smaller, 2.1× faster here, keeps 75 % of F1",
        ),
        # What most people ask for first.
        (
            {
                "evaluation": {"macro_f1": 0.5, "task_accuracy": 0.6},
                "teacher_evaluation": {"macro_f1": 1.0, "task_accuracy": 0.8},
            },
            "3.6× smaller, 2.1× faster here, keeps 75 % of accuracy",
        ),
        # A vector model is as near as its vectors.
        (
            {"teacher_evaluation": {}, "evaluation": {"cosine": 0.9, "neighbours": 0.75, "spread": 1.2}},
            "3.6× smaller, 2.1× faster here, cosine 0.900 to the teacher's vectors",
        ),
        # One class for all rows: no share of what was learned, nor of the teacher's answers.
        (
            {
                "evaluation": {"task_accuracy": 0.6, "agreement": 0.9, "is_constant": True},
                "teacher_evaluation": {"task_accuracy": 0.8},
            },
            "3.6× smaller, 2.1× faster here, but all held-out answers, or all labels, are alike",
        ),
        # Of several sets each is judged by itself.
        (
            {
                "evaluation": {"a_task_accuracy": 0.6, "b_task_accuracy": 0.5, "b_is_constant": True},
                "teacher_evaluation": {"a_task_accuracy": 0.8, "b_task_accuracy": 0.5},
            },
            "3.6× smaller, 2.1× faster here, keeps 75 % of a task accuracy",
        ),
        # A user's own metric, in percent; an error rate has no share that is kept.
        (
            {"teacher_evaluation": {"f1": 80.0, "rate": 0.1}, "evaluation": {"f1": 60.0, "rate": 0.2}},
            "3.6× smaller, 2.1× faster here, keeps 75 % of F1",
        ),
    ],
)
def test_the_line(changes, line):
    assert outcome_line(FACTS | changes) == line


@each(
    ("teacher", "student", "kept", "line"),
    [
        ({"f1": 0.0}, {"f1": 0.0}, [""], ""),
        (
            {"spearman": -0.125},
            {"spearman": 0.5, "agreement": 1.0},
            ["", "100 %"],
            "keeps 100 % of the teacher's top predictions",
        ),
        # All words are outside of spans.
        ({"span_f1": 0.0, "task_accuracy": 0.9}, {"span_f1": 0.0, "task_accuracy": 0.9}, ["", ""], ""),
        # No question gets an answer, or all texts one class.
        ({"f1": 50.0, "is_constant": True}, {"f1": 50.0}, [""], ""),
        ({"spearman": float("nan")}, {"spearman": 0.5}, [""], ""),
        ({"spearman": None}, {"spearman": 0.5}, [""], ""),
        ({"matthews": 0.0, "accuracy": 0.5}, {"accuracy": 0.5}, ["100 %", ""], "keeps 100 % of accuracy"),
    ],
)
def test_a_teacher_that_answers_nothing_has_no_share(teacher, student, kept, line):
    facts = {"teacher_evaluation": teacher, "evaluation": student}
    assert [row.kept for row in outcome_rows(facts)] == kept
    assert outcome_line(facts) == line


@each("facts", [{}, {"student": None, "teacher": 3}, {"teacher": TEACHER}, {"student": {"plan": {}}}])
def test_nothing_is_said_of_nothing(facts):
    assert outcome_rows(facts) == []
    assert outcome_line(facts) == ""


def test_a_loss_is_there_once():
    assert held_out_metrics({"a_loss": 1.0, "loss": 1.0, "kept_fraction_ffn": 0.5, "word": "x"}) == {"a_loss": 1.0}
    assert held_out_metrics({"loss": 1.0}) == {"loss": 1.0}


@each(
    ("facts", "words"),
    [
        ({"latency": {"machine": "Zen"}}, "Times are of Zen."),
        ({"evaluation": {"kl": 0.5}}, "Quality was measured on the run's held-out rows."),
        (
            {"evaluation": {"kl": 0.5}, "data": {"num_held_out_rows": 1024, "held_out": ["a.csv", "b"]}},
            "Quality was measured on 1,024 held-out rows of a.csv, b.",
        ),
        (
            {"evaluation": {"kl": 0.5}, "data": {"num_held_out_rows": 9, "num_labelled_eval_rows": 7}},
            "Quality was measured on 9 held-out rows, 7 of them with a label.",
        ),
    ],
)
def test_what_it_was_measured_on(facts, words):
    assert measured_on(facts) == words


def test_answers_have_percentages_however_small():
    answers = {"f1": 0.8, "exact_match": 0.0, "accuracy": 0.25}
    assert [row.student for row in outcome_rows({"evaluation": answers})] == ["0.8", "0", "25.0 %"]
    assert [row.student for row in outcome_rows({"evaluation": {"f1": 0.8}})] == ["80.0 %"]  # a user's own


def test_a_benchmark_is_no_measurement_of_the_run():
    facts = {"evaluation": {"cosine": 0.5}, "benchmarks": {"agreement": {"cosine": 1.0}}}
    assert [row.student for row in outcome_rows(facts)] == ["50.0 %"]
    del facts["evaluation"]
    assert [row.student for row in outcome_rows(facts)] == ["100.0 %"]


@each(
    ("value", "name", "text"),
    [
        (None, "", ""),
        (1234, "", "1,234"),
        (0.123456, "kl", "0.1235"),
        (0.5, "eval_f1", "50.0 %"),
        (55.5, "f1", "55.5"),
        (0.6944, "exact_match", "0.6944"),  # a percentage, however small
        (1, "accuracy", "1"),
        (123_456_789, "size_bytes", "123.5 MB"),
        ("ok", "", "ok"),
    ],
)
def test_figures(value, name, text):
    assert shown(value, name) == text


PLAN = {"num_attention_heads": 2, "head_dim": 8, "intermediate_size": 1024}


@each(
    ("plan", "words", "rows"),
    [
        (
            {"hidden_size": 16, **PLAN},
            "Hidden size 16; in every layer 2 heads, 8 channels a head, 1,024 FFN neurons.",
            [],
        ),
        ({"hidden_size": 16, "layers": [PLAN]}, "Hidden size 16; its layers differ:", [["0", "2", "8", "1,024"]]),
        ({"hidden_size": 3}, "", []),
        ({"layers": [PLAN | {"head_dim": "x"}]}, "", []),
        (None, "", []),
    ],
)
def test_widths_are_told_of_any_facts(plan, words, rows):
    assert widths_in({"plan": plan}) == (words, rows)
