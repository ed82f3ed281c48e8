"""The command line `homodistil`: a file for each command; this file finds the command and prints errors."""

import ctypes
import gc
import io
import os
import select
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

from ..files.caches import full_disk
from ..files.messages import nearest_valid, short_repr
from ..training.sigterm import EXIT_STATUS, ending_cleanly
from ..version import __version__

COMMANDS = {
    "distill": "homodistil_hf.cli.distill:Distill",
    "plan": "homodistil_hf.cli.plan:Plan",
    "trim": "homodistil_hf.cli.trim:Trim",
    "export": "homodistil_hf.cli.export:Export",
    "verify": "homodistil_hf.cli.export:Verify",
    "deploy": "homodistil_hf.cli.deploy:Deploy",
    "push": "homodistil_hf.cli.export:Push",
    "report": "homodistil_hf.cli.report:Report",
    "evaluate": "homodistil_hf.cli.evaluate:Evaluate",
    "finetune": "homodistil_hf.cli.finetune:Finetune",
    "prune": "homodistil_hf.cli.prune:Prune",
    "cascade": "homodistil_hf.cli.cascade:CascadeCommand",
    "latency": "homodistil_hf.cli.latency:Latency",
    "demo": "homodistil_hf.cli.demo:Demo",
    "cache": "homodistil_hf.cli.demo:Cache",
}
"""Name → class, imported when the command runs; the first line of its docstring is its line in the help."""

_HELP = """usage: homodistil [-h] [--version] COMMAND ...

Prune the width of an encoder and distil it.

positional arguments:
  COMMAND
{commands}

options:
  -h, --help  show this help message and exit
  --version   show program's version number and exit

example: homodistil plan --teacher google-bert/bert-base-uncased --student homobert-tiny"""

_MALLOC = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1)}
"""glibc's variables, and the numbers of the same options in its malloc.h."""

_PROCESSES = "the number of processes"
_SIGNS = dict.fromkeys(("out of memory", "can't allocate memory", "not enough memory"), _PROCESSES)
_SIGNS |= dict.fromkeys(("is killed by signal: killed", "out of shared memory"), "dataloader_num_workers")
_SIGNS |= {"has abruptly died during map operation": "preprocessing_num_workers"}
"""Words of libraries for memory that is used up, for which the kernel kills a worker, too → what to have fewer of."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, of the words after `homodistil`; default: those of this process.

    Returns:
        `int`: exit status. 0: done; 1: `verify` found problems; 2: an error, printed on standard error; 130:
            interrupted; 141: nobody reads its output any more. SIGTERM ends the process with 143. Training saves a
            checkpoint first; a second interrupt ends it at once.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    tune_process()
    collects = gc.isenabled()
    if "torch" not in sys.modules:
        # what a command imports is no garbage, and looking through it takes a second: `collect_again` ends this
        gc.disable()
    _prepare_streams()
    try:
        with ending_cleanly():
            return _run(words)
    except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader():
            return 141  # as by SIGPIPE: what was cut off may be work
        problem = (
            out_of_memory(error) if isinstance(error, MemoryError | RuntimeError) else str(full_disk(error) or error)
        )
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        in_training = any(frame.f_code.co_name == "_inner_training_loop" for frame in frames)
        raised_here = str(frames[-1].f_globals.get("__name__")).startswith("homodistil_hf.")
        # a ValueError that other code raises in the middle of training is a bug, and keeps its traceback
        if not problem or (isinstance(error, ValueError) and in_training and not raised_here):
            raise
        print(f"homodistil: error: {problem}", file=sys.stderr)
        return 2
    except SystemExit as ended:
        if ended.code == EXIT_STATUS:
            print("homodistil: ended by SIGTERM", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("homodistil: interrupted", file=sys.stderr)
        return 130
    finally:
        if collects:
            gc.enable()  # where a command ended before


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, as it stays open
    # a log has a line for each evaluation, and no bars
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    # a log file gets each line when it is written, as from standard error, and no help and no table fails where a
    # terminal's encoding lacks a character
    if isinstance(sys.stdout, io.TextIOWrapper):
        errors = "replace" if sys.stdout.errors == "strict" else sys.stdout.errors
        sys.stdout.reconfigure(errors=errors, line_buffering=True)


def _has_no_reader() -> bool:
    """Whether nobody reads standard output any more, as behind `| head`; what is left to print then goes nowhere."""
    if sys.platform == "win32":  # it has no poll, and its shells have no such readers
        return False
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)  # errors alone
    if is_gone := any(events & (select.POLLERR | select.POLLHUP) for _, events in asked.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_gone


def tune_process() -> None:
    """Spare this process and its children most page faults of large tensors, and threads that spin while they wait.

    On Linux torch then asks for large pages. glibc keeps freed blocks for the next tensor, up to 2 GB at the end of
    its heap. Beside one busy process, spinning costs many times more than sleep. Variables that are set already keep
    their values (docs/performance.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by OpenMP once, when torch is loaded
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch once, at its first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    for name, (option, value) in _MALLOC.items():
        if name not in os.environ:  # glibc has read those that are
            mallopt(option, value)
            os.environ[name] = str(value)


def out_of_memory(error: Exception) -> str:
    """A line for an error that says that memory is used up, on the host or a device; empty for any other error."""
    for one in (error, error.__cause__):
        number = next((number for sign, number in _SIGNS.items() if sign in str(one).lower()), None)
        if number is not None or isinstance(one, MemoryError):
            reason = (str(one).splitlines() or ["no more is free"])[0].rstrip(". ")
            return (
                f"out of memory ({reason}); lower per_device_train_batch_size (and raise gradient_accumulation_steps "
                f"by as much), the length of texts, or {number or _PROCESSES}; a run goes on with "
                "resume_from_checkpoint=last"
            )
    return ""


def _run(given: Sequence[str]) -> int:
    name = given[0] if given else "--help"
    if name in COMMANDS:
        return command_named(name).main(name, given[1:])
    if name == "--version":
        print(f"homodistil_hf {__version__}")
    elif name in ("-h", "--help"):
        lines = []
        for command in COMMANDS:
            text = command_named(command).__doc__
            words = f"{command:8}  {text[0].lower()}{text[1:].removesuffix('.')}"
            lines.append(textwrap.fill(words, 78, initial_indent=" " * 4, subsequent_indent=" " * 14))
        print(_HELP.format(commands="\n".join(lines)))
    else:
        raise ValueError(f"homodistil has no command {short_repr(name)}; {nearest_valid(name, COMMANDS)}")
    return 0


def command_named(name: str) -> Any:
    """Import the class of a command, a [`Command`]."""
    return resolve_name(COMMANDS[name])
