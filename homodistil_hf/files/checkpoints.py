"""The files of a `checkpoint-N`, its manifest, the search for a last good checkpoint, and models with a manifest.

| file | content |
| --- | --- |
| `config.json`, `model.safetensors` | the student at the widths of that step, loadable by itself |
| `queries.safetensors` | queries to the last bit, where those of the weights are scaled for stock classes |
| `projections.safetensors` | projections student → teacher |
| `pruning_state.json`, `scores.safetensors` | plan, method, numbers of heads, settings, logs; scores of units |
| `run_state.json` | method, settings and logs, in its place, where no student is pruned |
| `optimizer.pt`, `scheduler.pt`, `rng_state*.pth`, `trainer_state.json`, `training_args.bin` | Trainer's own |
| `tokenizer.json`, `tokenizer_config.json` | the tokenizer |
| `manifest.json` | SHA-256 of every file |

The manifest is written last and checked first, because safetensors has no checksum. And a pickle must not be opened
before its digest is checked. models/saved_student.py reads and writes the student's files, training/exact_trainer.py
(`write_state`) the others.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .folders import outdated_name, recover, remove_folder, remove_leftovers, written_whole
from .inside import files_inside, links_out
from .strict_json import read_json_object, write_json

logger = logging.getLogger(__name__)
PROJECTIONS_FILE = "projections.safetensors"
QUERIES_FILE = "queries.safetensors"
STATE_FILE = "pruning_state.json"
SCORES_FILE = "scores.safetensors"
MANIFEST_NAME = "manifest.json"
STAGING_NAME = ".staging"
_PICKLE_SUFFIXES = (".bin", ".pkl", ".pt", ".pth")
_SHOWN_CHARS = 255  # of a name: no file has more
_CHECKPOINT = re.compile(r"checkpoint-(\d+)|\.checkpoint-(\d+)\.outdated")


def write_manifest(folder: str | Path) -> None:
    """Write the digest of every file below a finished folder."""
    folder = Path(folder)
    files = {name: file_digest(folder / name) for name in _file_names(folder)}
    write_json(folder / MANIFEST_NAME, {"sha256": files}, sort_keys=True)


def check_manifest(folder: str | Path) -> Path:
    """Compare a `checkpoint-N` with its manifest, and return it.

    Raises:
        ValueError: no manifest, a missing or different file, or a pickle that is not listed. The message names the
            file and the last good checkpoint beside it.
    """
    folder = Path(folder)
    if problem := manifest_problem(folder):
        good = last_checkpoint(folder.parent, skip=folder)
        remedy = f"resume from the last good checkpoint, {good}" if good else "there is no other checkpoint beside it"
        raise ValueError(f"resume_from_checkpoint={str(folder)!r} can't be used: {problem}; {remedy}")
    return folder


def manifest_problem(folder: Path) -> str | None:
    """Return the first problem of a checkpoint; None if all files are as they were written."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        manifest = read_json_object(folder / MANIFEST_NAME, MANIFEST_NAME)
        expected = {str(name): str(digest) for name, digest in manifest["sha256"].items()}
    except FileNotFoundError:
        return f"{MANIFEST_NAME} is missing, so it was not written to the end or not by this package"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_NAME} is damaged"
    present = set(_file_names(folder))
    for name, digest in expected.items():
        if name not in present:
            return f"{name[:_SHOWN_CHARS]} is missing"
        if file_digest(folder / name) != digest:
            return f"{name} is damaged (its SHA-256 differs from the manifest's)"
    if links := links_out(folder):
        return f"{links[0]} is a link that leads out of it, or to nothing"
    # opening a pickle runs code, so one that nobody listed is refused; other files do no harm
    pickles = sorted(name for name in present - expected.keys() if name.endswith(_PICKLE_SUFFIXES))
    return f"{pickles[0]} is a pickle that {MANIFEST_NAME} doesn't list" if pickles else None


def last_checkpoint(
    output_dir: str | Path, *, skip: Path | None = None, before_step: int | None = None
) -> Path | None:
    """Return the newest complete checkpoint of a run other than `skip`, of a step below `before_step`.

    A warning names each damaged one that is passed over.
    """
    for checkpoint in sorted_checkpoints(output_dir):
        if checkpoint != skip and (before_step is None or _step_of(checkpoint) < before_step):
            if (problem := manifest_problem(checkpoint)) is None:
                return checkpoint
            logger.warning("%s can't be used and is passed over: %s", checkpoint, problem)
    return None


@contextmanager
def model_written(folder: Path, *, remedy: str) -> Iterator[Path]:
    """An empty folder that gets a manifest and the name `folder` when the block ends; see [`written_whole`].

    Raises:
        ValueError: another process is writing it.
        OSError: it can't be written; the message names the file and the remedy.
    """
    with written_whole(folder, lambda: f"{folder} was not written. {remedy}") as aside:
        yield aside
        write_manifest(aside)


def is_model_done(folder: Path) -> bool:
    """Whether a folder of [`model_written`] is there, as it was written; a warning tells of one that is damaged."""
    recover(folder)
    if not folder.is_dir():
        return False
    if problem := manifest_problem(folder):
        logger.warning("%s can't be used and is made anew: %s", folder, problem)
    return problem is None


def sorted_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return all checkpoint folders of a run, complete or not, newest first.

    A checkpoint that was being replaced when its process was killed counts, under its temporary name.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        return []
    folders = [path for path in output_dir.iterdir() if path.is_dir() and _CHECKPOINT.fullmatch(path.name)]
    # checkpoint-N under its temporary name counts only where checkpoint-N isn't there
    replaced = {outdated_name(path) for path in folders}
    return sorted((path for path in folders if path not in replaced), key=_step_of, reverse=True)


def _step_of(checkpoint: Path) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1] or match[2]) if match else -1


def set_aside_later(output_dir: Path, checkpoint: Path) -> list[Path]:
    """Rename the checkpoints of later steps than one of them to `_abandoned-checkpoint-N`; returns them, oldest first.

    An older folder of that name is replaced. Trainer removes in time what begins with
    `checkpoint-`, and doesn't push what begins with `_`.
    """

    def later() -> list[Path]:
        return [path for path in sorted_checkpoints(output_dir) if _step_of(path) > _step_of(checkpoint)]

    renamed = []
    for path in reversed(later()):
        aside = output_dir / f"_abandoned-checkpoint-{_step_of(path)}"
        remove_folder(aside)
        renamed.append(path.rename(aside))
    # what they had replaced when their process was killed
    for path in later():
        remove_folder(path)
    return renamed


def rotate(output_dir: str | Path, *, limit: int | None, keep: Collection[Path]) -> None:
    """Remove the oldest checkpoints; a failure is logged, not raised.

    Checkpoints of later steps than the newest kept one go first: they date from before the run was resumed.

    Args:
        output_dir: folder of a run.
        limit: number of checkpoints that stay, `keep` included; None or 0: all.
        keep: checkpoints that stay in any case, absolute or relative to the working folder.
    """
    if not limit or limit < 0:
        return
    kept = {path.resolve() for path in keep}
    newest_kept = max((_step_of(path) for path in kept), default=0)
    others = [path for path in sorted_checkpoints(output_dir) if path.resolve() not in kept]
    # a stable sort: newest first in each half, those of later steps behind
    others.sort(key=lambda path: _step_of(path) <= newest_kept, reverse=True)
    try:
        remove_leftovers(Path(output_dir))
        # from the end, so that an interruption leaves the newest
        for checkpoint in reversed(others[max(0, limit - len(kept)) :]):
            remove_folder(checkpoint)
    except OSError as error:
        logger.warning("save_total_limit=%d: an older checkpoint can't be removed: %s", limit, error)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _file_names(folder: Path) -> list[str]:
    return [name for name, path in files_inside(folder).items() if path.name != MANIFEST_NAME]
