"""Feed hostile input to everything that reads files of others, and record how each case ended.

    python -m benchmarks.reliability.fuzz --only plans --cases 30000 --results docs/results/fuzz.json
    python -m benchmarks.reliability.fuzz --seed 0 --only plans --case 4711

A case ends in success or in one of this package's own errors: a `ValueError`, `OSError` or `FloatingPointError` from a
`raise` statement of ours (an `OSError` of the system counts where it names its file). All else is a failure, and so is
a case that takes too long or too much memory; each is printed as the line that repeats it. Cases are numbered: a
number and the seed give the same case on any machine.
"""

import argparse
import faulthandler
import json
import linecache
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

# Before anything of Hugging Face is imported: no case may reach for the network.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="critical", HF_HUB_DISABLE_PROGRESS_BARS="1")

import datasets
import transformers

from benchmarks.reliability.fuzz_targets import TARGETS, OwnExit
from homodistil_hf.files.provenance import machine_facts

OWN_ERRORS = (ValueError, OSError, FloatingPointError)
GOOD = ("successes", "own_errors")
MEMORY_LIMIT_MB = 1024  # more than this on top, by one case, is a failure
ADDRESS_SPACE_GB = 16  # and this is where the system stops it
LONGEST_MESSAGE = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="of all targets together, or of the one in --only")
    parser.add_argument("--seed", type=int, default=0)
    # Absolute, as cases run in a folder of their own.
    parser.add_argument(
        "--results",
        type=lambda name: Path(name).resolve(),
        help="JSON file to write; with --only, its other targets stay",
    )
    parser.add_argument("--only", choices=sorted(TARGETS))
    parser.add_argument("--case", type=int, help="run this one case and show where it went wrong; needs --only")
    options = parser.parse_args()
    quiet()
    if options.case is not None:
        if options.only is None:
            parser.error("--case needs --only")
        sys.exit(int(bool(fuzz(options.only, [options.case], options.seed, show=True)["failures"])))
    is_one_more = options.only and options.results and options.results.is_file()
    targets = json.loads(options.results.read_text(encoding="utf-8"))["targets"] if is_one_more else {}
    for name, num_cases in shares(options.cases, options.only).items():
        targets[name] = fuzz(name, range(num_cases), options.seed)
    results: dict[str, Any] = {"machine": machine_facts(), "seed": options.seed, "targets": targets}
    for name in ("cases", *GOOD):
        results[name] = sum(found[name] for found in targets.values())
    results["num_failures"] = sum(len(found["failures"]) for found in targets.values())
    if options.results:
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(int(results["num_failures"] > 0))


def shares(num_cases: int, only: str | None = None) -> dict[str, int]:
    """How many cases each target gets."""
    if only:
        return {only: num_cases}
    total = sum(target.share for target in TARGETS.values())
    return {name: max(1, -(-num_cases * target.share // total)) for name, target in TARGETS.items()}


def fuzz(name: str, numbers: Sequence[int], seed: int, *, show: bool = False) -> dict[str, Any]:
    """Run cases of one target; returns their numbers by outcome, and the lines that repeat failures."""
    counts: Counter[str] = Counter(dict.fromkeys(GOOD, 0))
    failures = []
    with sandbox() as folder:
        for number in numbers:
            outcome = run_case(folder, name, seed, number, show=show)
            counts[outcome] += 1
            if outcome not in GOOD:
                line = f"python -m benchmarks.reliability.fuzz --seed {seed} --only {name} --case {number}"
                failures.append(f"{line}  # {outcome}")
                print(failures[-1], flush=True)
            if number % 50 == 49:
                shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
    found = {"cases": len(numbers)} | {kind: counts[kind] for kind in GOOD}
    print(f"{name}: {found}, {len(failures)} failures", flush=True)
    return found | {"failures": failures}


def run_case(folder: Path, name: str, seed: int, number: int, *, show: bool = False) -> str:
    """Run one case, and show the traceback if asked to; returns how it ended."""
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    environment = dict(os.environ)
    target = TARGETS[name]
    try:
        with time_limit(target.limit_s):
            target.case(folder, draw_of(name, seed, number))
        outcome = "successes"
    except TimeLimit:
        outcome = f"hang: more than {target.limit_s:g} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 — the fuzzer looks for any error that slips through
        outcome = "own_errors" if is_own(error) else described(error)
        if show:
            traceback.print_exc()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kb) / 1024
    return f"memory: {growth_mb:.0f} MB" if growth_mb > MEMORY_LIMIT_MB else outcome


def draw_of(name: str, seed: int, number: int) -> Random:
    return Random(f"{seed}/{name}/{number}")


def is_own(error: BaseException) -> bool:
    """Whether an error comes out of a `raise` statement of this package, with a message that can be read."""
    if isinstance(error, OwnExit):
        return True
    if (
        not isinstance(error, OWN_ERRORS)
        or isinstance(error, UnicodeError | json.JSONDecodeError)
        or not 0 < len(str(error)) <= LONGEST_MESSAGE
    ):
        return False
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    ours = str(frame.f_globals.get("__name__")).startswith(("homodistil_hf.", "benchmarks.sweep."))
    raised = linecache.getline(frame.f_code.co_filename, line).strip().startswith("raise ")
    return (ours and raised) or (isinstance(error, OSError) and bool(error.filename))


def described(error: BaseException) -> str:
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    place = f"{frame.f_globals.get('__name__')}:{line}"
    return f"{type(error).__name__} in {place}: {str(error)[:160]!r}"


class TimeLimit(KeyboardInterrupt):
    """A case takes too long; code that catches every other exception lets this one pass."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise in the middle of whatever takes too long; where nothing can be raised, the process ends with a trace."""

    def stop(number: int, frame: Any) -> None:
        raise TimeLimit

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(10 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def sandbox() -> Iterator[Path]:
    """A folder for one target; caches go there too, and the process stands in it."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        cache = datasets.config.HF_DATASETS_CACHE
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        work = Path(folder).resolve() / "a" / "b"
        work.mkdir(parents=True)
        os.chdir(work)
        try:
            yield work
        finally:
            os.chdir(here)
            datasets.config.HF_DATASETS_CACHE = cache


def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    size = ADDRESS_SPACE_GB << 30
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main()
