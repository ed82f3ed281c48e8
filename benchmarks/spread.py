"""The mean of several measurements with its spread, as tables and pictures show it."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation with n − 1 (None for a single value) and number of several measurements.

    Example:
    ```python
    >>> print(Spread.of([0.1, 0.2, 0.3]), "|", Spread.of([0.25]))
    0.200 ± 0.100 (3) | 0.250
    >>> print(f"{Spread.of([0.1, 0.2, 0.3]):+.1%}")
    +20.0% ± 10.0% (3)

    ```
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarise one or more values."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        return f"{self:.3f}"

    def __format__(self, format_spec: str) -> str:
        """The mean, with the spread (without a `+`) and the number of measurements where there are several."""
        form = format_spec or ".3f"
        mean = format(self.mean, form)
        return mean if self.std is None else f"{mean} ± {format(self.std, form.lstrip('+'))} ({self.n})"
