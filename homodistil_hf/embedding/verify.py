"""Checks that sentence-transformers, without this package, gives the vectors in an embedding model's facts."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from ..export.facts import CARD_FILE, FACTS_FILE
from ..export.verify import VerifyReport, code_problems, difference_problems, file_problems, run_fresh
from ..files.inside import stays_inside
from ..files.messages import first_line, short_repr
from ..files.strict_json import read_json_object
from ..models.equality import relative_difference
from ..models.loading import MODULES_FILE
from .folder import ACTIVATION_TYPES, MODULE_KINDS, MODULE_TYPE, ROUTER_FILE, TRANSFORMER_KEYS
from .reading import TRANSFORMER_FILE, encoder_config, read_modules

_LEAST_VERSION = 6
"""Of sentence-transformers, as in the extra `embeddings`."""
VECTOR_TOLERANCE = 1e-4
"""Largest difference of a channel, as a share of the largest channel or of 1."""

_FRESH_PROCESS = """
import json, sys
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
folder, routes, outputs = sys.argv[1:]
texts = json.load(open(folder + "/facts.json", encoding="utf-8"))["probe"]["texts"]
model = SentenceTransformer(folder, device="cpu", trust_remote_code=False)
found = {}
for route in routes.split(","):
    vectors = model.encode(texts, convert_to_tensor=True, **({"task": route} if "," in routes else {}))
    found[route] = vectors.float().contiguous()
save_file(found, outputs)
settings = {"max_seq_length": model.max_seq_length, "prompts": dict(model.prompts),
    "default_prompt_name": model.default_prompt_name, "similarity_fn_name": str(model.similarity_fn_name)}
print(json.dumps(settings))
"""


def vector_problems(folder: Path, facts: Mapping[str, Any]) -> tuple[list[str], float | None]:
    """Load an export, its files already checked, with sentence-transformers in a fresh process, and compare.

    Returns:
        `(problems, difference)`: a line each; largest relative difference between found and stated vectors, None where
        no vectors were found.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        return ["sentence-transformers is not installed; pip install 'homodistil-hf[embeddings]'"], None
    version = importlib.metadata.version("sentence-transformers")
    if int(version.partition(".")[0]) < _LEAST_VERSION:
        # Before, it imported whatever class a folder named.
        problem = f"sentence-transformers {version} is installed, expected {_LEAST_VERSION} or later, which runs no "
        return [f"{problem}code of a folder; pip install 'homodistil-hf[embeddings]'"], None
    routes = list(facts["probe"]["vectors"])
    with TemporaryDirectory() as scratch:
        outputs = Path(scratch, "vectors.safetensors")
        try:
            # its settings are the last line, as libraries may print others before it
            output = run_fresh(_FRESH_PROCESS, [folder.resolve(), ",".join(routes), outputs], scratch)
            found = json.loads(output.splitlines()[-1])
            vectors = load_file(outputs)
        except (ValueError, OSError) as error:
            return [str(error)], None
    expected = facts["settings_of_vectors"]
    # the library adds empty prompts
    found["prompts"] = {name: text for name, text in found["prompts"].items() if text or name in expected["prompts"]}
    problems = [
        f"{name}: expected {short_repr(value)}, found {short_repr(found[name])}"
        for name, value in expected.items()
        # sentence-transformers has its own default of what is not set
        if found.get(name) != value and (value is not None or name == "default_prompt_name")
    ]
    probed, channels = facts["probe"]["vectors"], facts["probe"]["channels"]
    if max(channels) >= min(vectors[route].shape[1] for route in routes):
        return [*problems, f"{FACTS_FILE} probe: channel {max(channels)} is beyond the vectors"], None
    differences = {
        f"{route} vectors": relative_difference(vectors[route][:, channels], torch.tensor(probed[route]))
        for route in routes
    }
    problems += difference_problems(differences, VECTOR_TOLERANCE)
    return problems, max(differences.values())


def module_problems(folder: Path) -> Iterator[str]:
    """Modules and settings of a folder that no export writes; sentence-transformers would import or read them."""
    kinds = {MODULE_TYPE.format(kind): kind for kind in MODULE_KINDS}
    try:
        modules = read_modules(folder / MODULES_FILE)
        # a pair is one module, whose own file has the modules of both routes
        if modules == [(MODULE_TYPE.format("Router"), "")]:
            routed = read_json_object(folder / ROUTER_FILE, ROUTER_FILE)["types"]
            modules = [(kind, path) for path, kind in routed.items()]
        for kind, path in modules:
            place, name = folder / path, path or "."
            if kind not in kinds or not (name == "." or stays_inside(name)):
                expected = f"{MODULES_FILE}: expected modules of {', '.join(kinds)}"
                yield f"{expected}, found {short_repr(kind)} in {short_repr(name)}"
            elif kinds[kind] == "Transformer":
                encoder_config(place, name, argument="folder")
                for file in place.glob("sentence_*_config.json"):
                    settings = read_json_object(file, file.name)
                    if file.name != TRANSFORMER_FILE or not settings.keys() <= set(TRANSFORMER_KEYS):
                        expected = f"{name}: expected {TRANSFORMER_FILE} with {', '.join(TRANSFORMER_KEYS)}"
                        yield f"{expected}, found {file.name} with {short_repr(settings)}"
            elif kinds[kind] == "Dense":
                activation = read_json_object(place / "config.json", name).get("activation_function")
                if activation not in ACTIVATION_TYPES.values():
                    expected = f"{name} activation_function: expected one of {', '.join(ACTIVATION_TYPES.values())}"
                    yield f"{expected}, found {short_repr(activation)}"
    except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:  # a table of another shape
        yield f"modules: {error}"


def verify_embedding(folder: Path, facts: Mapping[str, Any]) -> VerifyReport:
    """Check an embedding model or a pair: files first, then the vectors in sentence-transformers."""
    if not isinstance(facts.get("files"), dict):
        return VerifyReport(folder, (f"{FACTS_FILE}: expected files, found {short_repr(facts.get('files'))}",))
    problems = list(file_problems(folder, facts, needed=(MODULES_FILE, CARD_FILE)))
    problems = problems or list(code_problems(folder, facts)) or list(module_problems(folder))
    difference = None
    if not problems:
        try:
            problems, difference = vector_problems(folder, facts)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:  # facts of another shape
            problems = [f"{FACTS_FILE}: its probe can't be compared: {first_line(error)}"]
    return VerifyReport(folder, tuple(problems), difference, compared="vectors")
