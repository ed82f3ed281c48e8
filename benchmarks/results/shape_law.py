"""Fit the law of shapes, homodistil_hf/plans/shape_law.py, to runs of many shapes.

    python -m benchmarks.results.shape_law

Most runs are short. Those of 1,000 steps, of the default and of the paper's way, say how the law changes with length:
E, the weights of all terms, and once more those of the hidden size and of the FFN have a factor of their own there,
and the paper's way has one for its KL. The package has the law of 1,000 steps of the default. Errors are of log KL,
those of the default's 1,000 steps count three times; a weak pull of all logarithms of constants towards 0 decides what
the runs leave open.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from homodistil_hf.models.widths import DEPTH_KEY
from homodistil_hf.plans.shape_law import ShapeLaw, Term

from ..sweep.folder import read_records, trained
from ..sweep.tables import seed_of
from .students import GRADUAL, Record, plan_of, shape_of

FOLDER = Path("docs/results")
SHORT, PAPERS_WAY, LONG = range(3)
SWEEPS = {"shapes": SHORT, "shapes_paper": PAPERS_WAY, "shapes_long": LONG, "sizes": LONG}
"""Sweep → what its runs are; the default's count."""
_WIDTHS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "intermediate_size")
_TEACHER = (6, 384, 12, 32, 1536)
"""Those of the teacher of all runs, which the records lack."""
CHECK = "half"
"""A variant of `shapes_long` that came later: what the law says of it is compared with what it is."""
_PULL = 0.01
_WEIGHT_OF_LONG = 3**0.5
_NUM_STARTS = 15


def main() -> None:
    runs = read_runs(FOLDER)
    law, logs = fitted(runs)
    print(law)
    for run, error in zip(runs, errors(logs, runs), strict=True):
        print(f"{run.shape:20} {('300 steps', 'the paper, 1,000', '1,000')[run.kind]:16} {run.kl:.4f} {error:+.3f}")
    print(f"root mean square: {float(np.sqrt(np.mean(errors(logs, runs) ** 2))):.4f}")


class Run(NamedTuple):
    """A student: short, of the paper's way, or as long as the sizes are; its widths' shares of the teacher's."""

    kind: int
    shape: str
    shares: tuple[float, ...]
    kl: float


def read_runs(folder: Path) -> list[Run]:
    """Read all runs that the law is fitted to."""
    return [run for variant, run in _all_runs(folder) if variant != CHECK]


def expected_at_half(folder: Path, law: ShapeLaw) -> tuple[float, float] | None:
    """KL of the run that checks the law, as the law says and as it is; None where it was not run."""
    names = ("layers", "hidden_size", "num_heads", "head_dim", "ffn_size")
    checks = [run for variant, run in _all_runs(folder) if variant == CHECK]
    return (law(**dict(zip(names, checks[0].shares, strict=True))), checks[0].kl) if checks else None


def _all_runs(folder: Path) -> Iterator[tuple[str, Run]]:
    for sweep, kind in SWEEPS.items():
        for record in trained(read_records(folder / f"{sweep}.jsonl")):
            # one seed, that of all
            if record["method"] == "homodistil" and seed_of(record) == 0 and (sweep != "sizes" or _counts(record)):
                plan = plan_of(record)
                shares = tuple(plan.get(width, most) / most for width, most in zip(_WIDTHS, _TEACHER, strict=True))
                variant = record["variant"] if sweep == "shapes_long" else ""  # the sizes have a half, too
                yield variant, Run(kind, shape_of(record), shares, record["evaluation"]["kl"])


def _counts(record: Record) -> bool:
    """Of the sizes the default's; not where scores chose the layers that stay."""
    return record["variant"] in GRADUAL and DEPTH_KEY not in record["plan"]


def expected(logs: Any, runs: Sequence[Run]) -> Any:
    """KL of all runs by the logarithms of constants: c, p, E short and long, four factors of the long ones."""
    shares, kinds = np.array([run.shares for run in runs]), np.array([run.kind for run in runs])
    is_long = (kinds != SHORT)[:, None]
    numbers = np.exp(logs)
    terms = numbers[:5] * (shares ** -numbers[5:10] - 1) * np.where(is_long, _factors(numbers), 1.0)
    kls = np.where(is_long[:, 0], numbers[11], numbers[10]) + terms.sum(1)
    return kls * np.where(kinds == PAPERS_WAY, numbers[15], 1.0)


def _factors(numbers: Any) -> Any:
    """What weights are multiplied by in a long run: layers, hidden size, heads, channels, FFN."""
    return numbers[12] * np.array([1.0, numbers[13], 1.0, 1.0, numbers[14]])


def errors(logs: Any, runs: Sequence[Run]) -> Any:
    """Errors of log KL."""
    return np.log(expected(logs, runs)) - np.log([run.kl for run in runs])


def fitted(runs: Sequence[Run]) -> tuple[ShapeLaw, Any]:
    """Return the law of a long run, its constants to four digits, and the logarithms of all constants."""

    def residuals(logs: Any) -> Any:
        found = np.concatenate([errors(logs, runs) * weights_of_runs, _PULL * logs])
        return np.nan_to_num(found, nan=9.0, posinf=9.0, neginf=-9.0)

    weights_of_runs = np.array([_WEIGHT_OF_LONG if run.kind == LONG else 1.0 for run in runs])
    generator = np.random.default_rng(0)
    starts = [generator.normal(-0.5, 0.5, 16) for _ in range(_NUM_STARTS)]
    best = min((least_squares(residuals, start, max_nfev=500) for start in starts), key=lambda one: one.cost)
    numbers = np.exp(best.x)
    weights = numbers[:5] * _factors(numbers)
    values = [float(f"{value:.4g}") for value in (numbers[11], *weights, *numbers[5:10])]
    return ShapeLaw(values[0], *map(Term, values[1:6], values[6:])), best.x


if __name__ == "__main__":
    main()
