"""Images: accuracy after fine-tuning of the first weights and of further pre-trained ones, by steps, a row each.

    python -m benchmarks.studies.further_pretraining_images --data DATA --seeds 0 1 2 3 4 --num_steps 500 2000

DATA has `images/cifar10_part/{train,test}.parquet` with `image` and `label`. A small ViT is trained from nothing as a
masked auto-encoder on half of the classes: the first weights. The other half is the target: further pre-training on
its images, then fine-tuning on its labels, with the rate that is best on held-out images for the first seed of each
variant.
"""

import argparse
import io
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Array3D, Dataset, Features, Value
from PIL import Image
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    set_seed,
)

from benchmarks.quiet import QUIET
from benchmarks.studies.further_pretraining import (
    INITIAL,
    VARIANTS,
    Cell,
    cells_of,
    distance,
    pre_training,
    run_study,
)
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.methods.self_distillation.rounds import load_initial, self_distill
from homodistil_hf.methods.self_distillation.trainer import SelfDistillTrainer

TASK = "cifar10_part"
SHAPE = {"image_size": 32, "patch_size": 4, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6}
SHAPE |= {"intermediate_size": 768}
DECODER = {"decoder_hidden_size": 96, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 3}
DECODER |= {"decoder_intermediate_size": 384}
NUM_SOURCE_CLASSES, NUM_HELD_OUT = 5, 500
FINE_TUNING_BATCH_SIZE, FINE_TUNING_RATES = 32, (1e-4, 3e-4, 6e-4)
BATCHES = {"per_device_train_batch_size": 64, "overwrite_output_dir": True}
SOURCE_RATE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--num_images", type=int, default=1000, help="of the target, to train on")
    parser.add_argument("--source_steps", type=int, default=6000, help="of the first weights")
    parser.add_argument("--num_steps", type=int, nargs="+", default=[500, 2000], help="of each round")
    parser.add_argument("--rates", type=float, nargs="+", default=[1.5e-4], help="of the further pre-training")
    parser.add_argument("--fine_tuning_steps", type=int, default=1000)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/further_pretraining_images"))
    options = parser.parse_args()
    initial = options.output_dir / "initial"
    if not (initial / "config.json").is_file():
        train_initial(initial, options.data, options.source_steps)
    given = {name: getattr(options, name) for name in ("num_images", "fine_tuning_steps")}
    cells = cells_of([TASK], options.num_steps, options.rates, **given)
    study = partial(measured, initial=str(initial), data=options.data, output_dir=options.output_dir)
    run_study(cells, options.seeds, study)


def pixels(data: Path, split: str, *, is_target: bool) -> Dataset:
    """`pixel_values` and `labels` of the images of one half of the classes, in [−1, 1]."""
    rows = Dataset.from_parquet(str(data / "images" / TASK / f"{split}.parquet"))
    rows = rows.filter(lambda label: (label >= NUM_SOURCE_CLASSES) is is_target, input_columns="label")

    def read(row: dict[str, Any]) -> dict[str, Any]:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        values_CYX = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
        return {"pixel_values": values_CYX, "labels": row["label"] % NUM_SOURCE_CLASSES}

    features = Features({"pixel_values": Array3D((3, 32, 32), "float32"), "labels": Value("int64")})
    return rows.map(read, remove_columns=rows.column_names, features=features).with_format("numpy")


def _rows(data: Path, num_images: int) -> dict[str, Dataset]:
    """The target's training rows, a small corpus, those held out of them, and its test rows."""
    parts = pixels(data, "train", is_target=True).train_test_split(NUM_HELD_OUT, seed=0)
    return {
        "train": parts["train"].take(min(num_images, len(parts["train"]))),
        "held_out": parts["test"],
        "test": pixels(data, "test", is_target=True),
    }


def train_initial(folder: Path, data: Path, num_steps: int) -> None:
    """Train a masked auto-encoder on the source classes, from nothing."""
    set_seed(0)
    model = ViTMAEForPreTraining(ViTMAEConfig(**SHAPE, **DECODER, mask_ratio=0.75, norm_pix_loss=True))
    with_columns = pixels(data, "train", is_target=False).remove_columns("labels")
    scratch = folder.with_name("initial-training")
    args = pre_training(scratch, num_steps, SOURCE_RATE, seed=0, **BATCHES)
    SelfDistillTrainer(model, args, train_dataset=with_columns).train()
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    shutil.rmtree(scratch)


def measured(cell: Cell, rate: float | None, *, initial: str, data: Path, output_dir: Path) -> dict[str, Any]:
    """Pre-train unless that is done, fine-tune, and measure: accuracy, distance from the first weights, the rate."""
    model, rows, seed = initial, _rows(data, cell["num_images"]), cell["seed"]
    if cell["variant"] != INITIAL:
        folder = output_dir / "-".join(str(cell[name]) for name in ("num_images", "num_steps", "rate", "seed"))
        args = pre_training(folder, cell["num_steps"], cell["rate"], seed=seed, **BATCHES)
        self_distill(initial, args, train_dataset=rows["train"].remove_columns("labels"))
        model = str(folder / VARIANTS[cell["variant"]])
    tried = partial(
        fine_tuned, model, rows["train"], cell["fine_tuning_steps"], seed=seed, folder=output_dir / "tuned"
    )
    trainers = {one: tried(rate=one) for one in ([rate] if rate else FINE_TUNING_RATES)}
    scores = {one: accuracy(trainer, rows["held_out"]) for one, trainer in trainers.items()}
    rate = max(scores, key=lambda one: scores[one])
    found = {"validation": scores[rate], "test": accuracy(trainers[rate], rows["test"])}
    facts = {"learning_rate": rate, "num_train_rows": len(rows["train"]), "metric": "accuracy"}
    return found | facts | {"distance": distance(initial, model)}


def fine_tuned(model: str, rows: Dataset, num_steps: int, *, rate: float, seed: int, folder: Path) -> Trainer:
    """A stock classifier around the encoder of a masked auto-encoder, trained on labels."""
    set_seed(seed)
    classifier = ViTForImageClassification(ViTConfig(**SHAPE, num_labels=NUM_SOURCE_CLASSES))
    misfits = classifier.vit.load_state_dict(load_initial(model).vit.state_dict(), strict=False)
    if misfits.missing_keys or misfits.unexpected_keys:
        raise ValueError(f"model={model!r} is of another shape: {misfits}")
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=num_steps,
        learning_rate=rate,
        warmup_steps=num_steps // 20,
        weight_decay=0.01,
        seed=seed,
        per_device_train_batch_size=FINE_TUNING_BATCH_SIZE,
        per_device_eval_batch_size=100,
        bf16=multiplies_bfloat16(torch.device("cpu")),
        logging_strategy="no",
        use_cpu=True,
        **QUIET,
    )
    trainer = Trainer(classifier, args, train_dataset=rows)
    trainer.train()
    return trainer


def accuracy(trainer: Trainer, rows: Dataset) -> float:
    """Share of rows whose label is found."""
    output: Any = trainer.predict(rows)
    return float((output.predictions.argmax(-1) == output.label_ids).mean())


if __name__ == "__main__":
    main()
