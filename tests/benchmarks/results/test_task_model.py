"""One task model, two ways: what the page says of the record."""

from typing import Any

from benchmarks.results.task_model_page import task_model_lines


def page_record(
    arm: str, accuracy: float, *, seed: int = 0, rate: float = 1e-4, search: bool = False
) -> dict[str, Any]:
    costs = {"num_general_tokens": 4_096_000, "num_task_tokens": 250_000, "num_steps": 314, "seconds": 60.0}
    quality = {"accuracy": accuracy, "agreement": 0.9, "kl": 0.25}
    return {"arm": arm, "seed": seed, "is_search": search, "learning_rate": rate, **costs, **quality}


def page_results(*records: dict[str, Any]) -> dict[str, Any]:
    arms = ["teacher", "pruned_on_task", "pruned_on_task_no_labels", "general_4.1M_fine_tuned"]
    options = {"student": "macs=0.25", "batch_size": 64, "max_length": 64, "learning_rates": [1e-4, 3e-4]}
    epochs = {"num_train_epochs": 2, "num_pruning_epochs": 4, "num_search_epochs": 1}
    return {
        "options": options | epochs,
        "data": {"num_train_rows": 10_000, "num_search_rows": [9000, 1000], "num_dev_rows": 900},
        "arms": {arm: {"rate_of": "pruned_on_task" if "no_labels" in arm else arm} for arm in arms},
        "seeds": [0, 1],
        "machine": {"processor": "a processor", "num_cores": 2, "num_threads": 1, "versions": {"torch": "2"}},
        "records": list(records),
    }


def test_the_page_says_which_way_is_better_and_what_is_missing():
    lines = task_model_lines(
        page_results(
            *(page_record("teacher", 0.8, seed=seed) for seed in (0, 1)),
            *(page_record("pruned_on_task", 0.76 - 0.04 * seed, seed=seed, rate=3e-4) for seed in (0, 1)),
            page_record("pruned_on_task_no_labels", 0.75),
            *(page_record("general_4.1M_fine_tuned", 0.5, seed=seed) for seed in (0, 1)),
            page_record("pruned_on_task", 0.7, search=True),
            page_record("pruned_on_task", 0.71, search=True, rate=3e-4),
        )
    )
    row = next(line for line in lines if line.startswith("| pruned_on_task |"))
    assert row == (
        "| pruned_on_task | it, pruned while distilled on the task | 4.10 M | 0.25 M | 314 | 0.0003 | "
        "0.740 ± 0.028 (2) | 0.925 ± 0.035 (2) | 0.900 ± 0.000 (2) | 0.250 ± 0.000 (2) |"
    )
    # Of 900 rows each, two standard errors of a difference near 0.5 are √2/30; near 0.75 they are 0.041.
    assert "| `pruned_on_task` − `general_4.1M_fine_tuned` | +0.240 ± 0.028 (2), **better** | 0.047 |" in lines
    assert "| `pruned_on_task` − `pruned_on_task_no_labels` | +0.010, within noise | 0.041 |" in lines
    assert "| pruned_on_task | 0.700 | 0.710 |" in lines
    assert "Best at the first or last of them, so perhaps better beyond: `pruned_on_task`." in lines
    assert "| pruned_on_task_no_labels | that of `pruned_on_task` |  |" in lines
    assert "Not run: `pruned_on_task_no_labels,seed=1`." in lines


def test_the_page_says_nothing_of_what_was_not_begun():
    assert task_model_lines(None) == []
    lines = task_model_lines(page_results(page_record("teacher", 0.8)))
    assert any("Not run: `teacher,seed=1`, `pruned_on_task,seed=0`" in line for line in lines)
    assert not any("standard error" in line for line in lines)
