"""Progress for people: a bar, and one short line a log; trackers get every number.

With `verbose` a run has Trainer's own progress in its place.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback

from ..files.strict_json import is_number

_EVAL = "eval_"
_MOST_METRICS = 3
_ROUNDING = 1e-6
"""What a discrepancy may have of a student that is its teacher still."""
_SHORT = {"kl": "KL", "mlm_accuracy": "accuracy", "task_accuracy": "accuracy"}
_TERMS = {"loss": "loss", "loss_kl": "KL", "loss_vector": "vectors", "loss_masked": "masked"}


class ShortProgress(ProgressCallback):
    """Trainer's bar, unless `disable_tqdm`, and a line a log in place of a dictionary.

    Args:
        size_in_words: returns how much smaller the student has become; empty where it has not.
    """

    def __init__(self, size_in_words: Callable[[], str]):
        super().__init__()
        self.size_in_words = size_in_words
        self.first_step, self.begun_s = 0, time.monotonic()
        self.last_line = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what was chosen, and make the bar."""
        self.first_step, self.begun_s = state.global_step, time.monotonic()
        rate, rows = f"{args.learning_rate:g}", f"{args.rows_per_step:,}"
        if state.is_world_process_zero:
            tqdm.write(f"{state.max_steps - state.global_step:,} steps of {rows} rows, learning rate {rate}")
        if args.disable_tqdm:
            self.training_bar, self.current_step = tqdm(disable=True), 0
        else:
            super().on_train_begin(args, state, control, **kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar of an evaluation on."""
        if not args.disable_tqdm:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a line."""
        if state.is_world_process_zero and (words := list(log_words(logs))):
            if "train_runtime" not in logs:
                words = [f"step {state.global_step:,}/{state.max_steps:,}", *words]
                if size := self.size_in_words():
                    words.append(size)
                done, left = state.global_step - self.first_step, state.max_steps - state.global_step
                if done > 0 and left > 0:
                    words.append(f"eta {in_minutes((time.monotonic() - self.begun_s) / done * left)}")
            if (line := "  ".join(words)) != self.last_line:  # an evaluation after the last step may repeat it
                tqdm.write(line)
            if "train_runtime" not in logs:
                self.last_line = line


def log_words(logs: Mapping[str, Any]) -> Iterator[str]:
    """The figures of a log that tell most, each with its name; none of a log without any.

    Example:
    ```python
    >>> list(log_words({"loss": 42.9, "loss_kl": 1.466, "loss_hidden": 1.375, "num_bad_steps": 0}))
    ['loss 42.9', 'KL 1.47']
    >>> list(log_words({"loss": 1.9, "loss_vector": 0.26, "loss_hidden": 1.375}))
    ['loss 1.9', 'vectors 0.26']
    >>> list(log_words({"eval_kl": 0.41, "eval_task_loss": 0.5, "eval_task_accuracy": 0.84}))
    ['held out: KL 0.41', 'accuracy 84.0 %']
    >>> list(log_words({"eval_kl": 0.41, "eval_mlm_accuracy": 0.4, "eval_macs=0.25_kl": 0.62}))
    ['held out: KL 0.41', 'macs=0.25 KL 0.62', 'accuracy 40.0 %']
    >>> list(log_words({"eval_kl": -2.3e-09}))
    ['held out: KL 0']

    ```
    """
    from ..export.outcome import held_out_metrics, is_share  # words of results, which a training step needs not

    if "train_runtime" in logs:
        yield f"trained for {in_minutes(logs['train_runtime'])}"
        return
    for name, label in _TERMS.items():
        if is_number(value := logs.get(name)):
            yield f"{label} {value:.3g}"
    if num_bad := logs.get("num_bad_steps"):
        yield f"{num_bad} steps skipped"
    held_out = {name.removeprefix(_EVAL): value for name, value in logs.items() if name.startswith(_EVAL)}
    metrics = held_out_metrics(held_out)
    start = "held out: "
    # the KL, or else the first share, leads, of a nested student that of each size; then shares; another metric alone
    lead = "kl" if any(f"_{name}".endswith("_kl") for name in metrics) else next(filter(is_share, metrics), "")
    words = {name: name.removesuffix(lead).replace("_", " ") for name in metrics if f"_{name}".endswith(f"_{lead}")}
    leads = {name: of_size + _SHORT.get(lead, lead.replace("_", " ")) for name, of_size in words.items()}
    ordered = sorted(metrics, key=lambda name: (name != lead, name not in leads, not is_share(name)))
    for name in ordered[: max(_MOST_METRICS, len(leads))]:
        if is_share(name) or name in leads or len(metrics) == 1:
            value = metrics[name] if abs(metrics[name]) > _ROUNDING else 0.0
            figure = f"{100 * value:.1f} %" if is_share(name) and -1 <= value <= 1 else f"{value:.3g}"
            yield f"{start}{leads.get(name) or _SHORT.get(name, name.replace('_', ' '))} {figure}"
            start = ""


def in_minutes(seconds: float) -> str:
    """A time in words.

    Example:
    ```python
    >>> in_minutes(35.4), in_minutes(250), in_minutes(4000)
    ('35 s', '4 min', '1 h 7 min')

    ```
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
