"""What cheaper number types cost and save in the teacher, and odd widths in a step: docs/results/number_types.json.

    python -m benchmarks.speed.number_types --teacher TEACHER --eval_data TEXT…

The teacher's predictions at masked positions of held-out text, and its last hidden states, beside its own in float32;
passes of all types take turns. Widths: forward and backward of an encoder in the student's type, turn by turn too.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import concatenate_datasets
from torch import nn
from transformers import AutoTokenizer

from homodistil_hf import load_text, tokenize_to_blocks
from homodistil_hf.data.blocks import some_blocks
from homodistil_hf.data.masking import IGNORED_LABEL, MaskedLMCollator
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig, HomoBertModel
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.loading import load_encoder

RECORD = Path("docs/results/number_types.json")
BATCH_SIZE, LENGTH, NUM_BATCHES, NUM_TURNS = 16, 128, 8, 9
EVEN = {"hidden_size": 216, "num_attention_heads": 9, "head_dim": 24, "intermediate_size": 528, "num_hidden_layers": 6}
WIDTHS = {"9 × 24": {}, "9 × 23": {"head_dim": 23}, "10 × 23": {"num_attention_heads": 10, "head_dim": 23}}
Batch = Mapping[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--eval_data", nargs="+", required=True)
    options = parser.parse_args()
    batches = held_out(options.teacher, options.eval_data)
    found = {"teacher": teacher_types(options.teacher, batches), "widths": odd_widths(), "machine": machine_facts()}
    write_json(RECORD, found)
    print(found)


def held_out(teacher: str, sources: list[str]) -> list[Batch]:
    """Masked batches of held-out text."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    text = concatenate_datasets([load_text([source], split="validation") for source in sources])
    blocks = some_blocks(tokenize_to_blocks(text, tokenizer, max_seq_length=LENGTH), BATCH_SIZE * NUM_BATCHES)
    collator = MaskedLMCollator(tokenizer, seed=0)
    rows = list(blocks)
    return [collator(rows[start : start + BATCH_SIZE]) for start in range(0, len(rows), BATCH_SIZE)]


def teacher_types(name: str, batches: list[Batch]) -> dict[str, Any]:
    """Of each type the KL to float32, the share of equal first choices, the error of states, and seconds a pass."""
    exact = to_student(load_encoder(name)).eval()
    int8 = torch.ao.quantization.quantize_dynamic(copy.deepcopy(exact), {nn.Linear}, dtype=torch.qint8)
    forms: dict[str, Callable[..., Any]] = {
        "float32": FrozenTeacher(exact),
        "bfloat16 products": FrozenTeacher(copy.deepcopy(exact), dtype=torch.bfloat16),
        "int8 products": torch.inference_mode()(int8),
    }
    sums = {form: [0.0, 0.0, 0.0] for form in forms}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for turn, batch in enumerate([batches[0], *batches]):  # the first time warms up
        wanted = None
        for form, run in forms.items():
            start = time.perf_counter()
            output = run(input_ids=batch["input_ids"], output_hidden_states=True)
            took = time.perf_counter() - start
            logits_PV = output["logits"].float()[batch["labels"] != IGNORED_LABEL].log_softmax(-1)
            states_BTH = output["hidden_states"][-1].float()
            wanted = wanted or (logits_PV, states_BTH)
            if turn:
                kl = nn.functional.kl_div(logits_PV, wanted[0], reduction="batchmean", log_target=True)
                agree = (logits_PV.argmax(-1) == wanted[0].argmax(-1)).float().mean()
                error = (states_BTH - wanted[1]).square().mean() / wanted[1].square().mean()
                for index, value in enumerate((kl, agree, error)):
                    sums[form][index] += float(value) / len(batches)
                seconds[form].append(took)
    names = ("kl", "agreement", "states_error")
    return {
        form: dict(zip(names, sums[form], strict=True)) | {"median_s": statistics.median(seconds[form])}
        for form in forms
    }


def odd_widths() -> dict[str, dict[str, float]]:
    """Heads × channels → number of channels, and the median seconds of a forward and backward pass in bfloat16."""
    models = {
        name: HomoBertModel(HomoBertConfig(**EVEN | widths, _attn_implementation="eager"))
        for name, widths in WIDTHS.items()
    }
    turns: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(NUM_TURNS + 1):
        for name, model in models.items():
            turns[name].append(_seconds(partial(_step, model)))
    sizes = {name: model.encoder.layer[0].attention.self.query.out_features for name, model in models.items()}
    return {
        name: {"channels": sizes[name], "median_s": statistics.median(values[1:])} for name, values in turns.items()
    }


def _step(model: nn.Module) -> None:
    ids_BT = torch.randint(0, 1000, (BATCH_SIZE, LENGTH))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(ids_BT).last_hidden_state.square().mean().backward()


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
