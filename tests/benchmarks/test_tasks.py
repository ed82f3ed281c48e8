"""What copies bring stands beside the same cell without them."""

from benchmarks.studies.tasks import tables


def row(**changes):
    cell = {"task": "stsb", "size": "1/4", "rows": 3000, "way": "pruned", "seed": 0, "settings": {}}
    return cell | {"teacher": 0.85, "student": 0.8, "kl": 0.2, "steps": 1000} | changes


def test_copies_are_compared_with_the_cell_without_them():
    deep = {"size": "1/16"}
    rows = [
        row(),
        row(**deep, student=0.7, kl=0.4),
        row(**deep, settings={"copies": "10", "max_steps": "1000"}, student=0.75, kl=0.3),
    ]
    found = tables(rows)
    line = "- STS-B, 1/16, 10 copies of 3,000 rows, 1,000 steps: 70.0 (KL 0.400) to 75.0 (KL 0.300); teacher 85.0."
    assert found["copies"] == [line]
    assert found["more-ways"] == ["- 1/16, 3,000 rows: STS-B 70.0."]
    assert tables([row()])["copies"] == []
