"""Many rows of a table in one test: for cases that take milliseconds, of which nobody runs one alone."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch

Test = Callable[..., None]
_Param = type(pytest.param())


def each(names: str | tuple[str, ...], rows: str | Iterable[Any]) -> Callable[[Test], Test]:
    """Like `pytest.mark.parametrize`, but as one test: runs all rows, and names each that fails.

    Every row has the seed of a test, and a `tmp_path` and `monkeypatch` of its own; other fixtures are shared. `rows`
    may be the name of a fixture or parameter that holds them.
    """
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = rows if isinstance(rows, str) else [_values_of(row, len(keys)) for row in rows if not _is_skipped(row)]
    assert table, "an empty table tests nothing"

    def decorate(test: Test) -> Test:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def all_rows(**fixtures: Any) -> None:
            values = [_values_of(row, len(keys)) for row in fixtures.pop(rows)] if isinstance(rows, str) else table
            _run_all(test, fixtures, [dict(zip(keys, row, strict=True)) for row in values])

        kept = [value for name, value in signature.parameters.items() if name not in keys]
        if isinstance(rows, str):
            kept.append(inspect.Parameter(rows, inspect.Parameter.KEYWORD_ONLY))
        all_rows.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return all_rows

    return decorate


def _values_of(row: Any, num_names: int) -> Sequence[Any]:
    if isinstance(row, _Param):
        return row.values
    return row if num_names > 1 else [row]  # one name takes a row as it is


def _is_skipped(row: Any) -> bool:
    return isinstance(row, _Param) and any(one.name == "skipif" and one.args[0] for one in row.marks)


def _run_all(test: Test, fixtures: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    failures, skips = [], []
    for number, row in enumerate(rows):
        try:
            _run(test, number, fixtures, row)
        except pytest.skip.Exception as skipped:
            skips.append(skipped)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 — all are told
            failures.append((f"{number} {tuple(row.values())!r:.200}", error))
    if failures:
        lines = "\n".join(f"{label}: {type(error).__name__}: {error}" for label, error in failures)
        raise AssertionError(f"{len(failures)} of {len(rows)} rows:\n{lines}") from failures[0][1]
    if len(skips) == len(rows):
        raise skips[0]


def _run(test: Test, number: int, fixtures: dict[str, Any], row: dict[str, Any]) -> None:
    torch.manual_seed(0)
    for name, clear in (("caplog", "clear"), ("capsys", "readouterr")):
        if name in fixtures:
            getattr(fixtures[name], clear)()
    if "tmp_path" in fixtures:
        folder = fixtures["tmp_path"] / f"row{number}"
        folder.mkdir()
        fixtures = fixtures | {"tmp_path": folder}
    if "monkeypatch" not in fixtures:
        test(**fixtures, **row)
        return
    with pytest.MonkeyPatch.context() as patch:
        test(**fixtures | {"monkeypatch": patch}, **row)
