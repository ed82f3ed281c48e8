"""Checks an export against its facts, and loads it in a fresh process that can't import this package.

The export's logits there are compared with the compact form's, loaded here, and these with those of the student in
memory, from its facts. `methods/formats.py` finds the check of each format.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..files.checkpoints import file_digest
from ..files.inside import links_out, stays_inside
from ..files.messages import short_repr
from ..files.strict_json import fits, read_json_object
from ..files.tensors import WEIGHTS_FILE
from ..models.architectures import ARCHITECTURES, HEADS, MODEL_TYPES, architecture_named
from ..models.cost import cost_fractions, model_facts
from ..models.equality import relative_difference
from ..models.loading import load_encoder
from .export_folder import load_export
from .facts import (
    CARD_FILE,
    FACTS_FILE,
    all_logits,
    check_facts,
    file_facts,
    forms_facts,
    probe_facts,
    probe_inputs,
)

RELATIVE_TOLERANCE = 1e-5
"""Largest difference of float32 logits, as a share of the largest logit or of 1."""

_CONFIG_FILE = "config.json"
_CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")

_RAW_WEIGHTS = ("openvino/openvino_model.bin",)
"""Files of plain numbers whose names end like those of pickles."""

# The Hub adds the first to every repository; its client keeps the second beside its downloads.
_HUB_FILES = (".gitattributes", ".cache/huggingface/")

# Runs where this package can't be imported; arguments: folder, auto classes, 1 = trust remote code, outputs.
_FRESH_PROCESS = """
import json, os, sys
import torch, transformers
from safetensors.torch import save_file
folder, auto_classes, remote_code, outputs = sys.argv[1:]
probe, found = json.load(open(folder + "/facts.json", encoding="utf-8"))["probe"], {}
names = ("input_ids", "attention_mask", "token_type_ids")
inputs = {name: torch.tensor(probe[name]) for name in names if name in probe}
for name in auto_classes.split(","):
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=remote_code == "1")
    with torch.no_grad():
        result = model(**inputs)
    tensors = [result[key] for key in ("logits", "start_logits", "end_logits", "last_hidden_state") if key in result]
    found[name] = torch.stack(tensors, -1) if len(tensors) > 1 else tensors[0]
save_file({name: tensor.float().contiguous() for name, tensor in found.items()}, outputs)
num_tokens = 0
if os.path.isfile(os.path.join(folder, "tokenizer_config.json")):
    # The configuration that it would make is of no class in particular; transformers 5.14 can't check its widths.
    num_tokens = len(transformers.AutoTokenizer.from_pretrained(folder, config=model.config, trust_remote_code=False))
print(num_tokens)
"""

TIMEOUT_S = 600


@dataclass(frozen=True)
class VerifyReport:
    """The result of a check.

    Args:
        folder: the export.
        problems: one line each, with the expected and the found value; empty where all is well.
        max_relative_difference: largest difference between the fresh process and the compact form or the student in
            memory, divided by the largest logit or 1; `None` where nothing could be compared.
        code_sha256: digest of the modelling file in a compact export; `None` without one.
        compared: the kind of outputs, such as `logits`.
        notes: a line each on what could not be checked here.
    """

    folder: Path
    problems: tuple[str, ...]
    max_relative_difference: float | None = None
    code_sha256: str | None = None
    compared: str = "logits"
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def verify_model(folder: Path, facts: Mapping[str, Any]) -> VerifyReport:
    """Check an export of [`export_student`]: facts, files, code, then the logits."""
    try:
        check_facts(facts, folder)
    except ValueError as error:
        return VerifyReport(folder, (str(error),))
    # each check relies on those before it, and no code is run before it was compared
    problems = list(file_problems(folder, facts)) or list(_code_problems(folder, facts))
    code = _present_code(folder)
    report = VerifyReport(folder, tuple(problems), code_sha256=file_digest(code) if code else None)
    if problems:
        return report
    try:
        exported = load_encoder(str(folder), argument="folder")
        compact = load_export(folder)
        probe = probe_facts(compact)
    except (ValueError, RuntimeError, OSError) as error:
        return replace(report, problems=(f"the export can't be loaded: {error}",))
    if problems := list(_number_problems(exported, compact, facts, probe)):
        return replace(report, problems=tuple(problems))
    try:
        auto_class = HEADS[type(exported).__name__].kind.auto_class
        num_tokens, tensors = load_fresh(folder, [auto_class, "AutoModel"])
    except ValueError as error:
        return replace(report, problems=(str(error),))
    inputs = probe_inputs(compact.config)
    with torch.no_grad():
        hidden_BTH = compact.base_model(**inputs).last_hidden_state
        logits = all_logits(compact(**inputs))
    differences = {
        f"{auto_class}, logits of the compact form": relative_difference(tensors[auto_class], logits),
        "AutoModel, hidden states of the compact form": relative_difference(tensors["AutoModel"], hidden_BTH),
    }
    problems = list(difference_problems(differences, RELATIVE_TOLERANCE))
    if num_tokens > (most := exported.config.vocab_size):
        problems.append(f"tokenizer: expected at most vocab_size={most} tokens, found {num_tokens}")
    return replace(report, problems=tuple(problems), max_relative_difference=max(differences.values()))


def file_problems(
    folder: Path, facts: Mapping[str, Any], *, needed: Sequence[str] = (WEIGHTS_FILE, _CONFIG_FILE, CARD_FILE)
) -> Iterator[str]:
    """Files that are missing, unexpected, or not as `facts["files"]` lists them."""
    present, listed, links = file_facts(folder), facts["files"], links_out(folder)
    for name in links:
        yield f"{name}: expected a file of this folder, found a link that leads out of it"
    for name in sorted(name for name in listed if not stays_inside(name)):
        yield f"{FACTS_FILE}: expected names of files in this folder, found {short_repr(name)}"
    for name in needed:
        if not (folder / name).is_file() and name not in links:
            yield f"{name}: expected in every export, found nothing"
    for name in sorted(listed.keys() - present.keys() - {*needed, *links}):
        yield f"{name}: listed in {FACTS_FILE}, found nothing"
    for name in sorted(present.keys() - listed.keys()):
        if not name.startswith(_HUB_FILES):
            kind = "pickle, expected safetensors only" if name.endswith(_PICKLE_SUFFIXES) else "file"
            yield f"{name}: found an unexpected {kind}; {FACTS_FILE} does not list it"
    for name in sorted(present.keys() & listed.keys()):
        if name.endswith(_PICKLE_SUFFIXES) and name not in _RAW_WEIGHTS:
            yield f"{name}: found a pickle, expected safetensors only"
        yield from _differences(listed[name], present[name], name)


def _code_problems(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    config = read_json_object(folder / _CONFIG_FILE, _CONFIG_FILE)
    if (model_type := config.get("model_type")) not in MODEL_TYPES:
        yield f"{_CONFIG_FILE} model_type: expected one of {', '.join(MODEL_TYPES)}, found {short_repr(model_type)}"
    elif facts["format"] == "compact":
        architecture = architecture_named(model_type)
        yield from code_problems(folder, facts, files=architecture.modeling_files, auto_map=architecture.auto_map)
    else:
        yield from code_problems(folder, facts)


def code_problems(
    folder: Path, facts: Mapping[str, Any], *, files: Sequence[Path] = (), auto_map: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Code in an export, or a name of code in its configurations, that the export did not write.

    `facts.json` can't prove that a file belongs to the export: a person who adds a file can list it too.

    Args:
        folder: the export.
        facts: content of its `facts.json`.
        files: this package's modelling files that its format copies; empty for a format without code.
        auto_map: classes of these files, as the format names them in `config.json`.
    """
    for path in sorted(folder.rglob(f"*{_CONFIG_FILE}")):
        name = path.relative_to(folder).as_posix()
        expected_map = auto_map if name == _CONFIG_FILE else None
        if (found_map := read_json_object(path, name).get("auto_map")) != expected_map:
            yield f"{name} auto_map: expected {expected_map}, found {short_repr(found_map)}"
    known = {file.name for file in files}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in _CODE_SUFFIXES and name not in known:
            yield f"{name}: expected no code beside {', '.join(sorted(known)) or 'the weights'}; it was not run"
    for file in files:
        if not (folder / file.name).is_file():
            yield f"{file.name}: expected in this export, found nothing"
        elif (found := file_digest(folder / file.name)) != (expected_digest := file_digest(file)):
            writer = fits(facts.get("versions"), {...: str}) and facts["versions"].get("homodistil_hf")
            yield (
                f"{file.name}: expected this package's own file (sha256 {expected_digest}), found another ({found}), "
                f"written by homodistil_hf {writer or 'unknown'}; it was not run"
            )


def _present_code(folder: Path) -> Path | None:
    paths = (folder / architecture.modeling_files[0].name for architecture in ARCHITECTURES.values())
    return next((path for path in paths if path.is_file()), None)


def _number_problems(
    exported: PreTrainedModel, compact: PreTrainedModel, facts: Mapping[str, Any], probe: Mapping[str, Any]
) -> Iterator[str]:
    """Costs and logits in the facts that are not those of the model."""
    counted = model_facts(exported)
    yield from _differences(facts["student"], counted, f"{FACTS_FILE} student")
    yield from _differences(facts["forms"], forms_facts(compact), f"{FACTS_FILE} forms")
    fractions = cost_fractions(counted, facts.get("teacher"))
    yield from _differences(facts["cost_fractions"], fractions, f"{FACTS_FILE} cost_fractions")
    stated = facts["probe"]
    for name in sorted(probe.keys() - {"logits"}):
        yield from _differences(stated.get(name), probe[name], f"{FACTS_FILE} probe {name}")
    difference = relative_difference(torch.tensor(probe["logits"]), torch.tensor(stated["logits"]))
    if not difference <= RELATIVE_TOLERANCE:
        yield (
            f"{WEIGHTS_FILE}: expected the logits that the student had in memory within {RELATIVE_TOLERANCE:g}, "
            f"found a relative difference of {difference:.3g}"
        )


def load_fresh(folder: Path, auto_classes: Sequence[str]) -> tuple[int, dict[str, torch.Tensor]]:
    """Load an export in a process that can't import this package, and run it on the probe of its facts.

    Returns:
        `(num_tokens, outputs)`: of its tokenizer, 0 without one; logits of each auto class, states of AutoModel.

    Raises:
        ValueError: the process failed.
    """
    arguments = [folder.resolve(), ",".join(auto_classes), int(_present_code(folder) is not None)]
    num_tokens, outputs = run_fresh(_FRESH_PROCESS, arguments)
    return num_tokens, outputs


def _differences(stated: Any, actual: Any, where: str) -> Iterator[str]:
    if isinstance(stated, dict) and isinstance(actual, dict):
        for name in sorted(stated.keys() | actual.keys()):
            yield from _differences(stated.get(name), actual.get(name), f"{where} {name}")
    elif stated != actual:
        yield f"{where}: {FACTS_FILE} says {short_repr(stated)}, found {short_repr(actual)}"


def difference_problems(differences: Mapping[str, float], tolerance: float) -> Iterator[str]:
    """A line for each relative difference above the tolerance; one that is nan is above it."""
    for name, found in differences.items():
        if not found <= tolerance:
            yield f"{name}: expected a relative difference of at most {tolerance:g}, found {found:.3g}"


def run_fresh(
    code: str, arguments: Sequence[object], *, timeout_s: float = TIMEOUT_S
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Run code in a process that can't import this package.

    Args:
        code: it saves tensors to the file that is its last argument, and prints a line of JSON at its end.
        arguments: its others, in front of that file.
        timeout_s: seconds that it may take.

    Returns:
        The value that it printed, and its tensors.

    Raises:
        ValueError: it failed, or took too long.
    """
    # None in sys.modules makes every import of the package fail
    hidden = 'import sys; sys.modules["homodistil_hf"] = None\n'
    with TemporaryDirectory() as scratch:
        outputs = Path(scratch, "outputs.safetensors")
        # copies of remote code go to the scratch folder as well
        settings = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "TRANSFORMERS_VERBOSITY": "error"}
        try:
            process = subprocess.run(
                [sys.executable, "-c", hidden + code, *map(str, arguments), str(outputs)],
                cwd=scratch,
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"the fresh process took more than {timeout_s} s") from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"the process without homodistil_hf ended with status {error.returncode}: {reason}"
            ) from error
        # libraries may print before the report
        return json.loads(process.stdout.splitlines()[-1]), load_file(outputs)
