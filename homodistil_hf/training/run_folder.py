"""The folder of a run: claimed by one run, with checkpoints that are complete or absent.

A checkpoint is written aside, its manifest last, and then renamed. `exact_trainer.py` decides what a checkpoint holds.
"""

import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from accelerate.utils import broadcast_object_list

from ..export.facts import FACTS_FILE
from ..files.checkpoints import (
    STAGING_NAME,
    check_manifest,
    last_checkpoint,
    rotate,
    set_aside_later,
    sorted_checkpoints,
    write_manifest,
)
from ..files.folders import TRIAL_SUFFIX, check_archives, naming_the_file, publish, remove_folder
from ..files.locks import claimed, is_of_a_lock, lock_in
from ..files.messages import join_some, short_repr
from ..files.run_names import FAMILY_FILE, LOG_FILES, PART, RESULTS_FILE, STUDENT_FOLDER
from ..files.strict_json import read_json_object
from ..training_args import ExactArguments
from .ranks import on_every_rank

logger = logging.getLogger(__name__)

Requested: TypeAlias = str | Path | bool | None
"""Values of `resume_from_checkpoint`."""
TEACHER_SHA256 = "teacher_sha256"
"""Key of a checkpoint's state: digest of the weights that the run learns from."""


@contextmanager
def folder_claimed(output_dir: str, *, is_main: bool) -> Iterator[None]:
    """Hold the folder of a run while inside, by the main process; a second run is refused on every rank. Collective.

    Reentrant: a run holds its folder from its first check to its last file, and its trainer while it trains.

    Raises:
        ValueError: another process has it, or it can't be written.
    """
    place = Path(output_dir).absolute()
    # from the innermost outwards, so that each is empty when its turn comes
    new_folders = [folder for folder in (place, *place.parents) if not folder.is_dir()]
    try:
        with ExitStack() as stack:

            def claim() -> None:
                if is_main:
                    check_output_dir(output_dir)
                    # the stack keeps the lock until the block outside ends
                    stack.enter_context(claimed(lock_in(output_dir), f"output_dir={output_dir!r}"))

            on_every_rank(claim)
            yield
    finally:
        # those of a run that was refused
        for folder in new_folders if is_main else ():
            with suppress(OSError):  # not empty, or not made
                folder.rmdir()


def forget_earlier_run(output_dir: str) -> None:
    """Remove what would pass for the new run's of one that is overwritten, and say so of checkpoints and students."""
    _forget_records(output_dir)
    Path(output_dir, FAMILY_FILE).unlink(missing_ok=True)
    place = Path(output_dir)
    parts = sorted(path for path in place.glob("*") if PART.fullmatch(path.name))
    parts = [part for part in parts if (part / STUDENT_FOLDER / FACTS_FILE).is_file() or sorted_checkpoints(part)]
    students = [place / STUDENT_FOLDER] * (place / STUDENT_FOLDER / FACTS_FILE).is_file()
    for folder in (*sorted_checkpoints(output_dir), *parts, *students):
        logger.warning("overwrite_output_dir: %s of an earlier run is removed", folder)
        remove_folder(folder)


def check_not_read(
    output_dir: str, sources: Mapping[str, Any], *, written: Collection[str] = (STUDENT_FOLDER,)
) -> None:
    """Refuse, by a ValueError, a new run that would remove a model that it reads.

    Args:
        output_dir: of the run, whose checkpoints and parts are removed.
        sources: argument → name of a model.
        written: folders in it that the run writes.
    """
    place = Path(output_dir).resolve()
    for argument, name in sources.items():
        if not isinstance(name, str) or not name or not Path(name).is_dir():
            continue
        source = Path(name).resolve()
        first = next(iter(source.relative_to(place).parts), "") if source.is_relative_to(place) else ""
        is_checkpoint = (place / first) in sorted_checkpoints(place)
        if first in written or PART.fullmatch(first) or is_checkpoint:
            raise ValueError(
                f"{argument}={name!r} is in output_dir={output_dir!r}, where it would be overwritten; name another "
                "output_dir"
            )


def _forget_records(output_dir: str) -> None:
    for name in (*LOG_FILES, RESULTS_FILE):
        Path(output_dir, name).unlink(missing_ok=True)


class RunFolder:
    """`output_dir` of one run; every rank has an object of its own for the same folder, and can write there."""

    how_to_resume = "resume_from_checkpoint=last"
    """The setting by which a run goes on that was stopped."""

    def __init__(self, args: ExactArguments):
        self.args = args
        self.staged_in: str | None = None
        self.being_pushed: Path | None = None

        def look() -> list[str]:
            check_output_dir(args.output_dir)
            return existing_files(args.output_dir)

        self.earlier_files = on_every_rank(look)

    def check(self, checkpoint: str | None, sources: Mapping[str, Any]) -> None:
        """Refuse earlier files that the run may not overwrite, and models that it reads among them.

        Args:
            checkpoint: with which the run goes on; its own is in the folder, beside files that stay.
            sources: models that the run reads, as [`check_not_read`] takes them.

        Raises:
            ValueError: the folder isn't free.
        """
        if self._has_own(checkpoint):
            return
        check_free(self.args, self.earlier_files)
        if self.earlier_files:
            check_not_read(str(self.args.output_dir), {**sources, "resume_from_checkpoint": checkpoint})

    def take(self, checkpoint: str | None) -> None:
        """Make the folder the run's, when nothing speaks against the run any more; earlier files are removed.

        Of a run that goes on with its own checkpoint later ones are set aside: "the last one" would be theirs.
        """
        output_dir = str(self.args.output_dir)
        if not self.args.should_save:
            return
        if checkpoint is None:
            _forget_records(output_dir)
        if not self._has_own(checkpoint):
            # else "the last checkpoint" would be the older run's, and save_total_limit would remove this run's
            if self.earlier_files:
                forget_earlier_run(output_dir)
        elif later := set_aside_later(Path(output_dir), Path(str(checkpoint))):
            names = join_some([path.name for path in later])
            logger.warning(
                "the run goes on with %s; later checkpoints stay as %s, remove what you don't need", checkpoint, names
            )

    def _has_own(self, checkpoint: str | None) -> bool:
        # a checkpoint may be a link to another disk
        return checkpoint is not None and Path(checkpoint).parent.resolve() == Path(self.args.output_dir).resolve()

    def last_good_before(self, first_bad_step: int) -> Path | None:
        """The newest checkpoint from before a row of bad steps, if possible one that a good step followed.

        Weights may be finite and yet too large to compute with. A good step after the checkpoint shows that they are
        not.
        """
        output_dir = self.args.output_dir
        # checkpoint s holds the weights after s steps: below first_bad_step - 1 a good step followed
        earlier = last_checkpoint(output_dir, before_step=first_bad_step - 1)
        return earlier or last_checkpoint(output_dir, before_step=first_bad_step)

    # Saving

    @contextmanager
    def staging(self, checkpoint: Path, *, wait: Any) -> Iterator[Path]:
        """Yield a folder whose files become the checkpoint at the end; called on all ranks, rank 0 writes."""
        aside = checkpoint.parent / STAGING_NAME
        staged = aside / checkpoint.name
        try:
            # the folder is there before any rank writes into it
            if self.args.should_save:
                remove_folder(aside)  # maybe a link
                aside.mkdir(parents=True)
            wait()
            self.staged_in = str(aside)
            with naming_the_file(aside):
                yield staged
            # the manifest last, of files that are whole; then one rename
            if self.args.should_save:
                check_archives(staged)
                write_manifest(staged)
                publish(staged, checkpoint)
        except OSError as error:
            if error.errno is None:
                raise
            good = last_checkpoint(checkpoint.parent)
            remains = f"the last good checkpoint is {good}" if good else "there is no earlier one"
            raise OSError(
                error.errno,
                f"{error.strerror}; {checkpoint.name} was not saved, {remains}. Make room or choose another "
                f"output_dir, then go on with {self.how_to_resume}",
                error.filename,
            ) from error
        finally:
            self.staged_in = None
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)

    def rotate(self, run_dir: Path, keep: Sequence[str | Path | None]) -> None:
        """Remove checkpoints beyond `save_total_limit`, on the main process, but none to keep or of a slow push."""
        if self.args.should_save:
            kept = [Path(path) for path in (*keep, self.being_pushed) if path]
            rotate(run_dir, limit=self.args.save_total_limit, keep=kept)

    # Going on

    def resolve(self, requested: Requested) -> str | None:
        """The folder of the requested checkpoint, checked against its manifest before any of its files is opened.

        It is the same on all ranks; None to start anew.

        Raises:
            ValueError: there is no such checkpoint, or it is damaged, on some rank.
        """
        if requested is None or requested is False:
            return None
        if is_hub_address(requested):
            address = str(requested)

            def fetch() -> str | None:
                from .publishing import fetch_checkpoint  # few runs go on from the Hub

                is_main, token = self.args.should_save, self.args.hub_token
                return str(fetch_checkpoint(address, self.args.output_dir, token=token)) if is_main else None

            (requested,) = broadcast_object_list([on_every_rank(fetch)])

        return on_every_rank(lambda: str(verified_checkpoint(requested, self.args.output_dir)))


def is_hub_address(value: Any) -> bool:
    """Whether `resume_from_checkpoint` names a checkpoint on the Hub (`hf://…`) instead of a folder."""
    return isinstance(value, str) and value.startswith("hf://")


def check_output_dir(output_dir: str) -> None:
    """Create the folder of a run, and refuse one that can't be created or written."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        writable = os.access(output_dir, os.W_OK | os.X_OK)
    except OSError as error:
        raise ValueError(
            f"output_dir={output_dir!r} can't be created ({error.strerror}); name a folder that you may write"
        ) from error
    if not writable:
        raise ValueError(f"output_dir={output_dir!r} can't be written; change its permissions or name another folder")


def existing_files(output_dir: str) -> list[str]:
    """Sorted names in an output folder, without what killed processes leave and other ranks try to write there.

    Logs and report of an earlier run are none of them: the next run writes its own.
    """
    names = os.listdir(output_dir) if os.path.isdir(output_dir) else []
    names = [name for name in names if not name.endswith(TRIAL_SUFFIX) and name not in LOG_FILES]
    return sorted(name for name in names if name != STAGING_NAME and not is_of_a_lock(name))


def check_free(args: ExactArguments, earlier_files: Sequence[str], *, has_begun: bool = False) -> None:
    """Refuse to mix a new run with an older one's files, unless it may overwrite them.

    Args:
        args: settings of the new run.
        earlier_files: names in its folder.
        has_begun: whether the older run can go on though it has no checkpoint.
    """
    if earlier_files and not args.overwrite_output_dir:
        goes_on = has_begun or sorted_checkpoints(args.output_dir)
        remedy = "go on with resume_from_checkpoint=last, " if goes_on else ""
        raise ValueError(
            f"output_dir={args.output_dir!r} is not empty ({', '.join(earlier_files[:3])}); {remedy}set "
            "overwrite_output_dir, or name another folder"
        )


def check_same_identity(output_dir: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError, to go on with a run that began with other values; both are name → JSON value."""
    for name, value in now.items():
        if name in recorded and recorded[name] != value:  # earlier versions recorded less
            raise ValueError(
                f"{name}={short_repr(value)} is not what the run in output_dir={output_dir!r} began with, "
                f"{short_repr(recorded.get(name))}; resume with that, or name another folder"
            )


def recorded_start(args: ExactArguments, name: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an interrupted run of several parts has left in its file; None for a run that starts anew.

    Args:
        args: settings of the run.
        name: of the file in its folder.
        identity: values that the interrupted run must have in common with this one.

    Raises:
        ValueError: another run's files in the folder, or no such run to go on with.
    """
    folder, resume = str(args.output_dir), args.resume_from_checkpoint
    path = Path(folder, name)
    check_output_dir(folder)
    if not resume:
        check_free(args, existing_files(folder), has_begun=path.is_file())
        return None
    if resume != "last":
        raise ValueError(
            f"resume_from_checkpoint={short_repr(resume)} is not supported for a run of several parts, which finds "
            "its checkpoints itself; use 'last'"
        )
    if not path.is_file():
        raise ValueError(f"resume_from_checkpoint='last' finds no {name} in output_dir={folder!r}; start without it")
    recorded = read_json_object(path, f"{name} in output_dir={folder!r}")
    check_same_identity(folder, recorded, identity)
    return recorded


def verified_checkpoint(requested: Requested, output_dir: str) -> Path:
    """Check the checkpoint of a folder, or for True and `"last"` the newest one of a run, against its manifest."""
    if requested is True or requested == "last":
        folders = sorted_checkpoints(output_dir)
        if not folders:
            raise ValueError(
                f"resume_from_checkpoint={requested!r} asks for the last checkpoint, but output_dir={output_dir!r} "
                "has none; start without it, or name a checkpoint folder"
            )
        requested = str(folders[0])
    return check_manifest(str(requested))


def check_same_run(state: Mapping[str, Any], expected: Mapping[str, Any], folder: str | Path) -> None:
    """Refuse a checkpoint of another run: of other `method`, `plan`, `members`, `full` or teacher, where it has these.

    Args:
        state: of the checkpoint.
        expected: of the run; `full` are the widths at its start.
        folder: of the checkpoint.
    """
    for name, what, remedy in (
        ("method", "method", "resume with that method, or name another output_dir"),
        ("plan", "student plan", "resume with the same student, or start a new run from the exported checkpoint"),
        ("members", "smaller sizes", "resume with the same sizes, or name another output_dir"),
        ("full", "model of widths", "resume with the model that the run began with"),
    ):
        if name in expected and state.get(name) != expected[name]:
            here, there = short_repr(expected[name]), short_repr(state.get(name))
            raise ValueError(f"checkpoint {folder} is of {what}={there}, this run of {what}={here}; {remedy}")
    teacher = expected.get(TEACHER_SHA256)
    if state.get(TEACHER_SHA256, teacher) != teacher:  # earlier versions wrote none
        raise ValueError(
            f"checkpoint {folder} is of a teacher with other weights than this run's; resume with the teacher "
            "that the run began with, or name another output_dir"
        )
