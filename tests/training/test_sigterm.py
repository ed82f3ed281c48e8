"""SIGTERM saves a checkpoint first, on all ranks, and ends the process with 143; so does a command's first SIGINT."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import children
from run_traces import EVERY_SECOND_STEP, assert_same_run
from tiny_files import write_config
from tiny_models import GRADUAL, make_blocks
from transformers import TrainerCallback

from homodistil_hf.files.checkpoints import last_checkpoint, manifest_problem
from homodistil_hf.training.sigterm import EXIT_STATUS, StopRequest, ending_cleanly

SETTINGS = GRADUAL | {"max_steps": 8, "pruning_interval_steps": 1, "width_multiple": 1}


@contextlib.contextmanager
def handling(number: int, handler: Any) -> Iterator[None]:
    """A signal is handled so meanwhile."""
    earlier = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, earlier)


class SignalAt(TrainerCallback):
    """Sends this process a signal in the middle of a step: its gradients are there, its update is not."""

    def __init__(self, step: int, number: int = signal.SIGTERM):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            signal.raise_signal(self.number)


# The request


def test_a_handler_of_the_users_is_called_before_leaving():
    heard: list[int] = []
    with handling(signal.SIGTERM, lambda number, frame: heard.append(number)):
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
        with pytest.raises(SystemExit, match="143"):
            stop.leave()
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize(("number", "command"), [(signal.SIGTERM, contextlib.nullcontext), (signal.SIGINT, None)])
def test_who_ignores_a_signal_goes_on_ignoring_it(number, command):
    with handling(number, signal.SIG_IGN), (command or ending_cleanly)(), StopRequest() as stop:
        signal.raise_signal(number)
        assert not stop.is_made
        assert signal.getsignal(number) == signal.SIG_IGN


def test_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    found: list[Any] = []

    def enter() -> None:
        with StopRequest():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


# A command, outside of its training


def test_a_command_ends_with_143_and_tidies_up(tmp_path):
    """Not interrupted by another SIGTERM."""
    done = []

    @contextlib.contextmanager
    def tidying():
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("all")

    folder = tempfile.TemporaryDirectory(dir=tmp_path)
    with pytest.raises(SystemExit, match="143"), ending_cleanly(), folder, tidying():
        signal.raise_signal(signal.SIGTERM)
    assert (done, list(tmp_path.iterdir())) == (["all"], [])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_command_leaves_other_handlers_alone(handler):
    with handling(signal.SIGTERM, handler), ending_cleanly():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == handler


def test_one_of_several_ranks_ends_at_once(monkeypatch):
    """It may wait for another rank in a library, where no handler of Python's is called."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ending_cleanly():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize("context", [ending_cleanly, StopRequest])
def test_a_fork_of_a_command_or_a_training_ends_at_once(context):
    """Without a handler of Python's, which isn't called while the fork waits for a lock of a library."""
    with context():
        child = os.fork()
        if child == 0:
            signal.getsignal(signal.SIGTERM) == signal.SIG_DFL or os._exit(1)
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        for _ in range(5):  # as soon as it is there, which Python drops; a pool that ends such a fork waits for it
            if (child := os.fork()) == 0:
                time.sleep(1)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


# In a run


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"save_strategy": "steps", "save_steps": 5},
        {"save_only_model": True},
        {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "kl"}
        | {"pruning_end_fraction": 0.9},
    ],
    ids=["no saving", "a step that is saved anyway", "others without optimizer", "a step that is not the best"],
)
def test_sigterm_saves_the_step_and_the_resumed_run_is_the_same(make_trainer, trained, tmp_path, settings):
    settings = SETTINGS | settings
    before = signal.getsignal(signal.SIGTERM)
    stopped = make_trainer(callbacks=[SignalAt(5)], **settings)
    with pytest.raises(SystemExit) as caught:
        stopped.train()
    assert caught.value.code == EXIT_STATUS == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-5"]
    resumed = make_trainer(**settings)
    resumed.train("last")
    whole = trained(output_dir=str(tmp_path / "whole"), **settings)
    assert_same_run(resumed, whole)


@pytest.mark.slow
def test_one_allowed_checkpoint_is_the_one_that_sigterm_saved(make_trainer, tmp_path):
    """At the end of a run Trainer would keep the best one only; this is no end."""
    trainer = make_trainer(
        metric_for_best_model="kept_fraction_hidden",
        save_total_limit=1,
        callbacks=[SignalAt(11)],
        **SETTINGS | EVERY_SECOND_STEP | {"max_steps": 20, "pruning_end_fraction": 0.2},
    )
    with pytest.raises(SystemExit, match="143"):
        trainer.train()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-11"


@pytest.mark.parametrize("others", [{}, {"eval_strategy": "epoch", "save_steps": 4, "save_only_model": True}])
def test_sigterm_in_the_last_evaluation_saves_what_was_trained(make_trainer, tmp_path, others):
    class InTheLast(TrainerCallback):
        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == state.max_steps:
                signal.raise_signal(signal.SIGTERM)

    settings = SETTINGS | {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2} | others
    with pytest.raises(SystemExit, match="143"):
        make_trainer(callbacks=[InTheLast()], **settings).train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-4"]
    resumed = make_trainer(**settings)
    resumed.train("last")
    assert resumed.state.global_step == 4


@pytest.mark.parametrize("loader", ["get_train_dataloader", "get_eval_dataloader"])
def test_a_signal_to_the_workers_of_a_loader_spares_them(make_trainer, loader):
    """Some schedulers send it to all processes; the step that is finished needs them."""
    trainer = make_trainer(dataloader_num_workers=1, per_device_eval_batch_size=2, eval_dataset=make_blocks(16))
    earlier = {*multiprocessing.active_children()}  # loaders of other tests, until they are collected
    batches = iter(getattr(trainer, loader)())
    num_batches = 1 + bool(next(batches))
    workers = {*multiprocessing.active_children()} - earlier
    for worker in workers:
        subprocess.run(["kill", str(worker.pid)], check=True)  # of its trainer it would end
    num_batches += sum(1 for _ in batches)
    del batches
    for worker in workers:
        worker.join(30)
    assert (len(workers), num_batches > 6, workers & {*multiprocessing.active_children()}) == (1, True, set())


@pytest.mark.slow
def test_sigterm_after_the_last_step_ends_the_process_too(make_trainer):
    class AtTheEnd(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            signal.raise_signal(signal.SIGTERM)

    trainer = make_trainer(callbacks=[AtTheEnd()], **SETTINGS)
    with pytest.raises(SystemExit, match="143"):
        trainer.train()
    assert trainer.state.global_step == 8


@pytest.mark.slow
def test_sigint_passes_at_once_and_the_last_checkpoint_stays(make_trainer, tmp_path, interruptible):
    settings = SETTINGS | {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        make_trainer(callbacks=[SignalAt(5, signal.SIGINT)], **settings).train()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-4"


@pytest.fixture
def interruptible():
    """SIGINT as Python has it; shells start background jobs that ignore it."""
    with handling(signal.SIGINT, signal.default_int_handler):
        yield
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler  # whatever took it has put it back


class Twice(SignalAt):
    """Sends its signal again before the step has ended."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_pre_optimizer_step(args, state, control)


@pytest.mark.slow
@pytest.mark.parametrize(("callback", "saved"), [(SignalAt, ["checkpoint-5"]), (Twice, [])])
def test_a_commands_first_sigint_saves_the_step_and_its_second_one_does_not(
    make_trainer, tmp_path, caplog, interruptible, callback, saved
):
    trainer = make_trainer(callbacks=[callback(5, signal.SIGINT)], **SETTINGS)
    with ending_cleanly(), pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("*")] == saved
    assert "SIGINT: this step is finished and a checkpoint saved" in caplog.text
    assert ("SIGINT: checkpoint-5 is saved; go on with resume" in caplog.text) == bool(saved)


def test_sigint_after_sigterm_ends_a_command_at_once(interruptible):
    with ending_cleanly():
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit, match="143"):
            stop.leave()


def test_a_command_that_does_not_train_is_interrupted_at_once(interruptible):
    with ending_cleanly(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


# Real processes

LAUNCHERS = {
    "sigterm": [sys.executable, "-m", "homodistil_hf"],
    "sigint": [sys.executable, "-m", "homodistil_hf"],
    "one of two ranks": [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "homodistil_hf")
    ],
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, int, str]]]:
    """Runs that were sent a signal, with a whole process group each: name → folder, exit status, what they printed."""
    folders = {name: tmp_path_factory.mktemp("run") for name in LAUNCHERS}
    with _running(LAUNCHERS, folders) as processes:
        going = set(processes)
        while going:  # whichever has saved first: what goes on takes time from the others
            for name in sorted(going):
                process = processes[name]
                if last_checkpoint(folders[name] / "run") is None and process.poll() is None:
                    continue
                if name == "one of two ranks":
                    os.kill(children(process.pid)[1], signal.SIGTERM)
                else:
                    os.killpg(process.pid, signal.SIGINT if name == "sigint" else signal.SIGTERM)
                going.remove(name)
            time.sleep(0.05)
        statuses = {name: process.wait(timeout=120) for name, process in processes.items()}
        yield {name: (one, statuses[name], (one / "log").read_text(encoding="utf-8")) for name, one in folders.items()}


@contextlib.contextmanager
def _running(launchers: dict[str, list[str]], folders: dict[str, Path]) -> Iterator[dict[str, subprocess.Popen]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONUNBUFFERED", None)  # lines come in their order all the same
    processes = {}
    for name, launcher in launchers.items():
        config = write_config(
            folders[name], max_steps=5000, save_steps=3, save_total_limit=2, dataloader_num_workers=1
        )
        # A process inherits that its parent ignores SIGINT, as a background job of a shell does.
        inherited = handling(signal.SIGINT, signal.default_int_handler)
        with inherited, open(folders[name] / "log", "w", encoding="utf-8") as log:
            processes[name] = subprocess.Popen(
                [*launcher, "distill", str(config)],
                env=environment | {"HOMODISTIL_CACHE": str(folders[name] / "cache")},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    try:
        yield processes
    finally:
        for process in processes.values():
            if process.poll() is None:
                for one in (*children(process.pid), process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(os.getpgid(one), signal.SIGKILL)


@pytest.mark.distributed
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_signal_to_a_real_process(ended, name):
    folder, status, text = ended[name]
    good = last_checkpoint(folder / "run")
    assert manifest_problem(good) is None
    signal_name = "SIGINT" if name == "sigint" else "SIGTERM"
    assert f"{signal_name}: {good.name} is saved; go on with resume_from_checkpoint=last\n" in text, text[-3000:]
    assert "Traceback" not in text.partition("torch/distributed")[0]
    assert not (folder / "run" / "student").exists()
    if name == "sigterm":
        assert status == 143
    elif name == "sigint":
        assert (status, text.endswith("homodistil: interrupted\n")) == (130, True), text[-3000:]
    else:
        # torchrun ends what is left once the first rank has gone; by then both have saved. 2.6 names the first only.
        statuses = re.findall(r"exitcode  : (-?\d+)", text)
        assert sorted(statuses) in (["143"], ["-15", "143"], ["143", "143"]), text[-3000:]
