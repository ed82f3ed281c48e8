"""A run of a method: the settings that it reads, its checks, its data, its trainer, and the lines when it is done.

[`StudentRun`] is the run of a method whose trainer distils a student. `methods/masked_words.py` and the `run.py` in a
method's folder hold its subclasses. `experiments` decides what goes before a student and after it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from ..distillation.projections import Projections
from ..export.export_folder import load_export
from ..files.caches import keep_datasets_here
from ..files.checkpoints import PROJECTIONS_FILE
from ..files.messages import short_repr
from ..files.run_names import STUDENT_FOLDER
from ..files.settings import SettingsParser, build, differing
from ..files.strict_json import parse_json
from ..files.tensors import load_tensors
from ..models.architectures.architecture import PROJECTIONS
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.widths import WidthPlan, widths_of
from ..plans.budgets import share_as_budget
from ..plans.resolve import member_folder
from .run_arguments import Log, RunArguments, RunConfig

SETTINGS_OF_ONE_CALL = ("resume_from_checkpoint", "overwrite_output_dir")
"""Settings that decide how a run is started, and are none of the run itself."""


class Bundle(NamedTuple):
    """A folder with more than an encoder and its tokenizer, whose vocabulary can be trimmed.

    Args:
        encoder: the transformers model in it.
        tokenizer: of the encoder.
        prompts: texts that stand before others, whose tokens stay.
        is_lower: whether texts are read in lower case.
        write: the encoder, its tokenizer and a folder → the same bundle with these.
    """

    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[str]
    is_lower: bool
    write: Callable[[PreTrainedModel, PreTrainedTokenizerBase, Path], None]


class Evaluation(NamedTuple):
    """What `homodistil evaluate` does for a task of a method's own: class of settings, function, table of results."""

    settings: Any
    evaluate: Callable[..., Any]
    format: Callable[[Mapping[str, Any]], str]


class MethodCommand(NamedTuple):
    """What a command that is one method does: class of settings, the function that takes them, its results as text."""

    settings: Any
    run: Callable[..., dict[str, Any]]
    format: Callable[[Mapping[str, Any]], str] = str


class Run:
    """What `homodistil distill` does for one method.

    Args:
        trainer_class: the method's trainer.
    """

    unused: ClassVar[tuple[str, ...]] = ()
    """Fields of [`RunArguments`] that have no part in such a run."""
    arguments_class: ClassVar[type[RunArguments]] = RunArguments
    """Class of its settings of teacher and text."""
    counts_when_named: ClassVar[tuple[str, ...]] = ()
    """Settings that are `given` also with their field's default, as such a run may have another default."""

    def __init__(self, trainer_class: type[Trainer]):
        self.trainer_class: Any = trainer_class

    @property
    def kinds(self) -> tuple[Any, ...]:
        """Dataclasses of the settings."""
        return self.arguments_class, self.trainer_class.arguments_class

    @property
    def method(self) -> str:
        """Its name in configs."""
        name: str = self.trainer_class.method
        return name

    @property
    def place(self) -> str:
        """What refuses settings that have no part in it, in messages."""
        return f"method={self.method!r}"

    def claims(self, teacher: str, given: Mapping[str, Any]) -> bool:
        """Whether the folder of a teacher is one that this method alone distils, with the rows that are `given`."""
        return False

    def planned_config(self, teacher: str) -> PreTrainedConfig | None:
        """Read the configuration of the encoder in a folder that is more than one; None where it is just that."""
        return None

    def bundle(self, model: str, *, token: str | None = None) -> Bundle | None:
        """Load a folder that is more than an encoder and its tokenizer; None where it is just that."""
        return None

    def parser(self) -> SettingsParser:
        """Flags of all settings."""
        command = "homodistil distill"
        return SettingsParser(command, *self.kinds, manual=f"{command} --help_all", takes_config=True)

    def read(self, values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> RunConfig:
        """Make settings of a JSON object and of flags that override it; messages on the object begin with `label`.

        Raises:
            ValueError: an unknown key, a wrong type or value; the message names key, value and remedy.
        """
        # flags override the object, both override a recipe
        named = self.parser().given(flags, values, label)
        found = self._recipe(named.get("recipe")) | named
        if not found.get("output_dir"):
            raise ValueError("output_dir is not set; name a folder in CONFIG or as --output_dir runs/my-student")
        # what makes this run: values that are no defaults, or whose default another kind of run changes
        given = differing(found, *self.kinds) | {name: named[name] for name in self.counts_when_named if name in named}
        given = {name: value for name, value in given.items() if _belongs_to_the_run(name)}
        if "method" in found:  # also where it is the default: another method may claim the same teacher
            given["method"] = self.method
        return self.settings(found | {"method": self.method}, given)

    def _recipe(self, name: str | None) -> dict[str, Any]:
        """The settings of a recipe; none without one."""
        recipes = getattr(self.trainer_class.arguments_class, "recipes", {})
        if name is not None and name not in recipes:
            known = f"its recipes: {', '.join(recipes)}" if recipes else "it has none; leave it out"
            raise ValueError(f"recipe={short_repr(name)} is no recipe of method={self.method!r}; {known}")
        return {} if name is None else dict(recipes[name])

    def settings(self, values: Mapping[str, Any], given: dict[str, Any]) -> RunConfig:
        """Make the dataclasses of checked values; arguments and errors as [`RunConfig`], [`Run.read`]."""
        run, training = (build(kind, values) for kind in self.kinds)
        self.check(run)
        return RunConfig(run, training, given)

    def check(self, run: RunArguments) -> None:
        """Refuse, by a ValueError, what has no part in a run of this method."""
        for name, value in differing({name: getattr(run, name) for name in self.unused}, type(run)).items():
            raise ValueError(f"{name}={short_repr(value)} has no place with {self.place}; leave it out")

    def run(self, settings: RunConfig, log: Log) -> dict[str, Any]:
        """Do all of it, and return what was written to `results.json`; `log` is called on the main process."""
        raise NotImplementedError

    def summary(self, results: Mapping[str, Any], output_dir: str) -> str:
        """Describe how a run ended, from the content of its `results.json`."""
        raise NotImplementedError


@dataclass(frozen=True)
class RunInputs:
    """What a student's run is checked against before any text is read.

    Args:
        config: the teacher's.
        tokenizer: fits the teacher.
        plan: widths of the student.
    """

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    plan: WidthPlan


class StudentRun(Run):
    """A run that distils one student, or a chain of sizes."""

    def read(self, values: Mapping[str, Any], label: str, flags: Sequence[str] = ()) -> RunConfig:
        """As [`Run.read`]; in JSON `student` may be an object or a list."""
        if isinstance(student := values.get("student"), dict | list):
            values = {**values, "student": json.dumps(student)}
        return super().read(values, label, flags)

    def settings(self, values: Mapping[str, Any], given: dict[str, Any]) -> RunConfig:
        """Also make those of each member, where `student` is a list."""
        students = _listed(values.get("student"))
        if students is None:
            return super().settings(values, given)
        values = dict(values)
        # the chain has no widths of its own, its members have
        whole = super().settings(values | {"student": None}, given | {"student": students})
        members = []
        for number, student in enumerate(students, start=1):
            folder = str(Path(values["output_dir"]) / member_folder(number, student))
            own = {"student": student, "output_dir": folder}
            # Resuming, overwriting and pushing are done for all members together.
            others = {"resume_from_checkpoint": None, "overwrite_output_dir": True, "push_to_hub": False}
            members.append(super().settings(values | own | others, given | own))
        return replace(whole, members=tuple(members))

    def inputs(self, settings: RunConfig) -> RunInputs:
        """Check teacher, widths and lengths; raises what the run would raise before it reads any text."""
        raise NotImplementedError

    def rows(self, settings: RunConfig, inputs: Any, log: Log) -> tuple[Any, Any]:
        """Read the text: rows to train on, and rows to evaluate on."""
        raise NotImplementedError

    def teacher(self, settings: RunConfig, inputs: Any) -> Any:
        """Load the teacher, as the trainer takes it."""
        raise NotImplementedError

    def arguments(self, settings: RunConfig, inputs: Any, train: Any) -> Any:
        """The arguments of the trainer, with defaults that follow from the rows to train on."""
        return settings.training

    def trainer(
        self, settings: RunConfig, log: Log, *, inputs: RunInputs | None = None, start: PreTrainedModel | None = None
    ) -> Any:
        """Check a run from the cheapest to the dearest, then load teacher and text, and make the trainer.

        Args:
            settings: the run's.
            log: takes lines for the user.
            inputs: the result of [`StudentRun.inputs`]. Default: they are checked now.
            start: the model that the student starts as. Default: its teacher.

        Raises:
            ValueError: something about the settings, the data or the teacher can't work.
            OSError: a file or a Hub repository can't be read.
        """
        run, training = settings.run, settings.training
        for name in ("further_pretraining", "vocabulary"):
            if (value := getattr(run, name)) is not None:
                raise ValueError(
                    f"{name}={short_repr(value)} goes before a run of `homodistil distill` alone; make that teacher "
                    "first, and name its folder as the teacher"
                )
        training.dataloader_pin_memory &= torch.accelerator.is_available()  # torch warns otherwise
        inputs = inputs or self.inputs(settings)
        self.trainer_class.check_possible(inputs.plan, widths_of(inputs.config))
        keep_datasets_here()
        # one process tokenizes, the others find the rows in its cache
        with training.main_process_first(desc="reading the text"):
            train, held_out = self.rows(settings, inputs, log)
        arguments, teacher = self.arguments(settings, inputs, train), self.teacher(settings, inputs)
        # it starts as `start` and learns from the teacher, or starts as a copy of the teacher
        return self.trainer_class(
            start or teacher,
            arguments,
            teacher_model=teacher if start else None,
            plan=inputs.plan,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=inputs.tokenizer,
        )

    def of_members(self, settings: RunConfig, folders: Sequence[Path]) -> dict[str, Any]:
        """Measure the finished members of a chain, in their folders, beside each other; more of its results."""
        return {}

    def chain_problems(self, settings: RunConfig) -> list[tuple[str, Any, str]]:
        """Name the settings that rule out a chain of sizes: name, value, remedy."""
        return []

    def load_start(self, folder: Path) -> Any:
        """Load a finished member of a chain as what the next one starts as: its student, with its projections."""
        student, tensors = load_export(folder / STUDENT_FOLDER), load_tensors(folder / PROJECTIONS_FILE)
        return with_projections(student, tensors) if tensors else student


def with_projections(student: LayerwiseModel, tensors: Mapping[str, torch.Tensor]) -> LayerwiseModel:
    """Give a student projections of these tensors: of hidden states, of embeddings, and others as they are named."""
    # matrices of states become projections; all else, such as the map of vectors, becomes a buffer
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(("hidden.", "embedding."))}
    num_layers = sum(name.startswith("hidden.") for name in own)
    # matrices are (teacher's size, student's size)
    sizes = student.config.hidden_size, next(iter((own or tensors).values())).shape[0]
    projections = Projections(*sizes, num_hidden_layers=num_layers, with_embedding="embedding.weight" in own)
    projections.load_state_dict(own)
    for name in tensors.keys() - own.keys():
        projections.register_buffer(name.replace(".", "_"), tensors[name])
    student.add_module(PROJECTIONS, projections)
    return student


def _belongs_to_the_run(name: str) -> bool:
    # An access token is a secret.
    return not name.endswith("token") and name not in SETTINGS_OF_ONE_CALL


def _listed(student: Any) -> list[str] | None:
    """The members of a chain, each as text; None where `student` names one model."""
    if not isinstance(student, str) or not student.lstrip().startswith("["):
        return None
    plans = parse_json(student, "student")
    texts = [json.dumps(plan) if isinstance(plan, dict) else share_as_budget(plan) for plan in plans]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f'student={short_repr(plans)} is no list of students; expected such as ["macs=0.5", "macs=0.25"], from '
            "wide to narrow"
        )
    return texts
