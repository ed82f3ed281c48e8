"""What identity.py runs: commands of every kind, and the tiny models and rows that they read."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, BertTokenizer
from transformers import AutoModelForQuestionAnswering as Answerer
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import AutoModelForTokenClassification as Tagger

NUM_WORDS, NUM_ROWS = 96, 48
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
WIDTHS = SMALL | {"head_dim": 8}
SAME_HEADS = "macs=0.25,num_attention_heads=4"
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "roberta": {},
    "mpnet": {},
    "electra": {"embedding_size": 20},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "modernbert": {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
    | {"position_buckets": 8, "share_att_key": True, "position_biased_input": False, "legacy": False},
}
FEELINGS, MARKS = ("bad", "fair", "good"), ("O", "B-PER", "I-PER")
TEXT = {"train_data": "train.txt", "eval_data": "eval.txt", "max_seq_length": 16}
STEPS: dict[str, Any] = {"max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
STEPS |= {"save_steps": 4, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
GUIDED = STEPS | {"teacher_dtype": "float32"}
AT_ONCE = GUIDED | {"student": WIDTHS, "num_scoring_batches": 2}
PRUNED = AT_ONCE | {"pruning_end_fraction": 0.5, "pruning_interval_steps": 2}
WORDS = {"teacher": "words"} | TEXT
TUNED = {"learning_rate": 1e-3, "max_train_steps": 12, "batch_size": 8, "dtype": "float32"}
Given = Mapping[str, Any]


def save_model(folder: Path, kind: Any, model_type: str = "bert", **values: Any) -> None:
    """Write a tiny model with noise on every parameter, and a tokenizer of one token a word."""
    shape = {} if model_type == "distilbert" else SHAPE
    common = {"vocab_size": NUM_WORDS, "max_position_embeddings": 34, "pad_token_id": 0}
    torch.manual_seed(1)
    model = kind.from_config(AutoConfig.for_model(model_type, **shape | common | values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(5, NUM_WORDS))]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)


def rows_of_kinds() -> dict[str, tuple[Any, dict[str, Any], dict[str, list[Any]], str]]:
    """Kind of task → class and settings of its teacher, columns of its rows, suffix of their file."""
    draw = np.random.default_rng(0)

    def texts(least: int) -> list[str]:
        numbers = [draw.integers(5, NUM_WORDS, least + row % 4) for row in range(NUM_ROWS)]
        return [" ".join(f"w{number}" for number in words) for words in numbers]

    def named(names: tuple[str, ...]) -> dict[str, Any]:
        return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}

    every = range(NUM_ROWS)
    pair: dict[str, list[Any]] = {name: texts(3) for name in ("sentence1", "sentence2")}
    contexts = texts(9)
    places = [len(" ".join(text.split()[:2])) + 1 for text in contexts]
    spans = [" ".join(text.split()[2:4]) for text in contexts]
    answers = [{"text": [span], "answer_start": [place]} for span, place in zip(spans, places, strict=True)]
    tokens = [text.split() for text in texts(3)]
    tags = [["B-PER", "I-PER", *["O"] * (len(row) - 2)] for row in tokens]
    several: list[Any] = [[list(FEELINGS[:1]), list(FEELINGS[1:]), []][row % 3] for row in every]
    fractions = {name: draw.normal(size=NUM_ROWS).tolist() for name in ("score", "joy", "fear")}
    two_values = {"text": texts(4)} | {name: fractions[name] for name in ("joy", "fear")}
    return {
        "classes": (Classifier, named(FEELINGS), {"text": texts(4), "label": [FEELINGS[n % 3] for n in every]}, "csv"),
        "pairs": (Classifier, {}, pair | {"label": [row % 2 for row in every]}, "parquet"),
        "several-labels": (
            *(Classifier, named(FEELINGS) | {"problem_type": "multi_label_classification"}),
            *({"text": texts(4), "labels": several}, "jsonl"),
        ),
        "values": (Classifier, {"num_labels": 1}, pair | {"score": fractions["score"]}, "parquet"),
        "two-values": (Classifier, named(("joy", "fear")) | {"problem_type": "regression"}, two_values, "csv"),
        "tags": (Tagger, named(MARKS), {"tokens": tokens, "ner_tags": tags}, "parquet"),
        "answers": (Answerer, {}, {"question": texts(3), "context": contexts, "answers": answers}, "json"),
    }


def write_rows(columns: dict[str, list[Any]], file: str) -> None:
    """Write a file of rows in the format of its suffix."""
    rows = Dataset.from_dict(columns)
    {".csv": rows.to_csv, ".parquet": rows.to_parquet}.get(Path(file).suffix, rows.to_json)(file)


def write_inputs() -> None:
    """Write all models and rows into the working folder."""
    save_model(Path("words"), AutoModelForMaskedLM)
    save_model(Path("deep"), AutoModelForMaskedLM, num_hidden_layers=4)
    save_model(Path("small"), AutoModelForMaskedLM, **SMALL)
    save_model(Path("small classes"), Classifier, **SMALL, **rows_of_kinds()["classes"][1])
    for name, values in ARCHITECTURES.items():
        save_model(Path(name), AutoModelForMaskedLM, name, **values)
    for kind, (model_class, values, columns, suffix) in rows_of_kinds().items():
        save_model(Path(kind), model_class, **values)
        write_rows(columns, f"{kind}.{suffix}")
    draw = random.Random(0)
    for name in ("train", "eval"):
        found = [" ".join(f"w{draw.randrange(5, NUM_WORDS)}" for _ in range(20)) for _ in range(120)]
        Path(f"{name}.txt").write_text("\n\n".join(found), encoding="utf-8")
    write_rows({"text": rows_of_kinds()["classes"][2]["text"]}, "unlabelled.jsonl")
    ranked = {
        name: rows_of_kinds()["pairs"][2][column] for name, column in (("query", "sentence1"), ("text", "sentence2"))
    }
    write_rows(ranked, "ranked.parquet")
    pairs = rows_of_kinds()["pairs"][2] | {"idx": list(range(NUM_ROWS))}
    for split in ("train", "validation"):
        Path("glue/rte").mkdir(parents=True, exist_ok=True)
        write_rows(pairs, f"glue/rte/{split}.parquet")
    # a folder of sentence-transformers: encoder, mean, a layer of 24 outputs, length 1
    save_model(Path("sentences"), AutoModel)
    parts = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(parts.items())
    ]
    layer = {"in_features": 32, "out_features": 24, "bias": True}
    written: dict[str, Any] = {
        "modules.json": listed,
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": layer | {"activation_function": "torch.nn.modules.activation.Tanh"},
    }
    for path, values in written.items():
        Path("sentences", path).parent.mkdir(exist_ok=True)
        Path("sentences", path).write_text(json.dumps(values), encoding="utf-8")
    Path("sentences/3_Normalize").mkdir()
    dense = torch.nn.Linear(32, 24)
    save_file(
        {f"linear.{name}": tensor.data for name, tensor in dense.state_dict().items()},
        "sentences/2_Dense/model.safetensors",
    )
    texts = Path("train.txt").read_text(encoding="utf-8").split("\n\n")
    vectors = torch.nn.functional.normalize(torch.randn(len(texts), 40), dim=1).tolist()
    write_rows({"text": texts, "vector": vectors}, "vectors.parquet")


def runs() -> dict[str, list[Any]]:
    """Name → words of a command; a mapping among them is the content of its config."""
    found: dict[str, list[Any]] = {}

    def distill(name: str, *parts: Given, **more: Any) -> None:
        values = {key: value for part in (*parts, more) for key, value in part.items()}
        found[name] = ["distill", {key: value for key, value in values.items() if value is not None}]

    distill("words", WORDS, PRUNED)
    distill("words, macs budget", WORDS, PRUNED, student="macs=0.25")
    distill("words, parameters budget, all defaults", WORDS, STEPS, student="params=6k", learning_rate=None)
    distill("words, fewer layers", WORDS, PRUNED, teacher="deep", student="macs=0.1,layers=2")
    distill("words, paper", WORDS, GUIDED, recipe="paper", student=WIDTHS)
    distill("words, magnitude", WORDS, PRUNED | {"num_scoring_batches": None}, importance_metric="magnitude")
    distill(
        "words, smoothed, attention",
        WORDS,
        PRUNED,
        sensitivity_smoothing=0.5,
        attention_weight=0.1,
        num_scoring_batches=0,
    )
    distill(
        "words, bf16, accumulation, plain",
        WORDS,
        STEPS,
        bf16=True,
        gradient_accumulation_steps=2,
        student="macs=0.8",
        plain=True,
    )
    distill("words, streaming", WORDS, PRUNED, streaming=True)
    distill("words, vocabulary", WORDS, PRUNED, vocabulary="keep=60")
    distill("words, rows", WORDS, PRUNED, packing=False, eval_data=None, student_dropout=0.1)
    distill("words, family", WORDS, PRUNED, student=["macs=0.5", "macs=0.25"])
    distill(
        "words, further pre-training",
        WORDS,
        PRUNED,
        further_pretraining={"max_steps": 4, "per_device_train_batch_size": 8},
    )
    for architecture in ARCHITECTURES:
        distill(f"words, {architecture}", WORDS, PRUNED, teacher=architecture, student="macs=0.25")
    distill("one_shot", WORDS, AT_ONCE, method="one_shot")
    distill("pruned_first", WORDS, GUIDED, method="pruned_first", student=WIDTHS)
    distill("one_shot, fewer layers", WORDS, AT_ONCE, method="one_shot", teacher="deep", student="macs=0.1,layers=2")
    distill("scratch", WORDS, STEPS, method="scratch", student=WIDTHS)
    half = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
    distill("distilbert", WORDS, GUIDED, method="distilbert", student=half)
    for method in ("tinybert", "minilm", "minilm_v2"):
        distill(method, WORDS, GUIDED, method=method, student=SAME_HEADS)
    distill("self_distillation", WORDS, STEPS, method="self_distillation", num_rounds=1)
    for kind, (_, _, _, suffix) in rows_of_kinds().items():
        rows = {"train_data": f"{kind}.{suffix}"}
        task = {"teacher": kind} | rows
        distill(f"task, {kind}", task, PRUNED)
        distill(f"distill --start, {kind}", task, GUIDED, start="small")
        own: dict[str, Any] = {"text_columns": ["sentence1", "sentence2"]} if kind == "pairs" else {}
        own |= {"label_column": "joy,fear"} if kind == "two-values" else {}
        found[f"finetune, {kind}"] = ["finetune", TUNED | rows | own | {"model": "small"}]
        found[f"finetune --teacher, {kind}"] = ["finetune", TUNED | task | own | {"model": "small"}]
    classes = {"teacher": "classes", "train_data": "classes.csv"}
    distill("task, no labels", classes, PRUNED, train_data="unlabelled.jsonl")
    distill("task, one_shot", classes, AT_ONCE, method="one_shot")
    distill("task, pruned_first", classes, GUIDED, method="pruned_first", student=WIDTHS)
    distill("task, all defaults", classes, STEPS, student="macs=0.25", learning_rate=None)
    distill("distill --start, from a run", classes, STEPS, start="runs/words", learning_rate=None)
    distill("distill --start, fine-tuned", classes, GUIDED, start="small classes")
    rates: dict[str, Any] = TUNED | {"learning_rate": None, "learning_rates": [1e-3, 3e-3], "model": "runs/words"}
    rates = {name: value for name, value in rates.items() if value is not None}
    found["finetune, from a run, rates"] = ["finetune", rates | {"train_data": "classes.csv"}]
    found["finetune --teacher, from a run"] = ["finetune", TUNED | classes | {"model": "runs/words"}]
    found["bit"] = [
        "distill",
        TUNED | {"method": "bit", "model": "classes", "train_data": "classes.csv", "stages": [2, 1]},
    ]
    sentences = {"teacher": "sentences"} | TEXT
    distill("embedding", sentences, AT_ONCE)
    distill("embedding, axes", sentences, AT_ONCE, output=7)
    # spaces of their own, or the run would time its members in ONNX Runtime, for most of a minute
    distill("embedding, family", sentences, AT_ONCE, student=["macs=0.5", "macs=0.25"], output="student")
    distill("embedding, vectors", GUIDED, teacher_vectors="vectors.parquet", start="sentences")
    distill("embedding, vectors, narrower", AT_ONCE, teacher_vectors="vectors.parquet", start="sentences")
    distill("embedding, all defaults", sentences, STEPS, student="macs=0.25", learning_rate=None)
    distill("reranker", AT_ONCE, teacher="values", train_data="ranked.parquet", method="reranker")
    found["prune"] = [
        "prune",
        "--model",
        "classes",
        "--unlabeled_data",
        "train.txt",
        "--macs",
        "0.8",
        "--num_samples",
        "30",
    ]
    found["trim"] = ["trim", "words", "--text", "train.txt", "--vocabulary", "keep=60", "--output"]
    for name, run, form in (
        ("words", "words", "compact"),
        ("embedding, pair", "embedding", "pair"),
        ("tags", "task, tags", "compact"),
    ):
        found[f"export, {name}"] = ["export", f"runs/{run}", "--format", form, "--output"]
    measured = [
        "--data_dir",
        "glue",
        "--seeds",
        "0",
        "--learning_rate",
        "1e-3",
        "--max_train_steps",
        "12",
        "--dtype",
        "float32",
    ]
    found["evaluate, glue"] = ["evaluate", "runs/words", "--task", "rte", *measured]
    found["evaluate, discrepancy"] = ["evaluate", "runs/words", "--task", "discrepancy", "--eval_data", "eval.txt"]
    return found
