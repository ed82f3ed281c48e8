"""What the tests of all methods take from the baselines: see tests/support/methods_here.py."""

from methods_here import SAME_HEADS
from resumed_runs import method

from homodistil_hf.methods.baselines.minilm import MiniLMv2Trainer
from homodistil_hf.methods.baselines.one_shot import OneShotTrainer

PUBLIC_NAMES = ["OneShotArguments", "OneShotTrainer"]
HALF_THE_MACS = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
STUDENTS = {"distilbert": HALF_THE_MACS}  # it takes whole layers
DISTRIBUTED = {
    "one-shot": {"trainer_class": OneShotTrainer, "num_scoring_batches": 3},
    "relations": {"trainer_class": MiniLMv2Trainer, "mlm_trains": "head"},
}
RESUMED = {
    "one_shot, movement": method("one_shot", importance_metric="movement", student_dropout=0.1),
    "one_shot, fewer layers": method("one_shot", SAME_HEADS | {"num_hidden_layers": 1}),
    "shallow, budget": method("shallow", student="macs=0.25"),
    "distilbert, dropout": method("distilbert", HALF_THE_MACS, student_dropout=0.1),
    "tinybert, head by words": method("tinybert", mlm_trains="head"),
    "minilm_v2, head by words": method("minilm_v2", student_dropout=0.1, mlm_trains="head"),
}
