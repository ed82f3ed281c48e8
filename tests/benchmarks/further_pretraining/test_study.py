"""The table of both studies, and the page that has that of the record."""

from benchmarks.further_pretraining.study import PAGE, RECORD, rows_of, study_table
from benchmarks.marked_pages import filled


def test_scores_are_told_by_arm_and_length():
    def row(arm, num_steps, test, distance=0.0, **more):
        return {"task": "scierc", "arm": arm, "num_steps": num_steps, "test": test, "distance": distance, **more}

    rows = [
        row("initial", 0, 0.5),
        row("further", 100, 0.6, 2.0, rate=1e-4),
        row("further", 100, 0.7, 4.0, rate=1e-4, student=None),
        row("further", 100, 0.8, 1.0, rate=5e-5),
        row("initial", 0, 0.4, student="macs=0.25"),
    ]
    assert study_table(rows).splitlines()[2:] == [
        "| fine-tuned only | – | 0 | – | 50.0 |",
        "| further pre-trained | – | 100 | 5e-05 | 80.0 · 1.0 |",
        "| further pre-trained | – | 100 | 0.0001 | 65.0 ± 7.1 (2) · 3.0 |",
        "| fine-tuned only | macs=0.25 | 0 | – | 40.0 |",
    ]


def test_the_page_has_the_table_of_the_record():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, "study", study_table(rows_of(RECORD))) == page
