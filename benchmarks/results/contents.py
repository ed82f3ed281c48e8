"""What the page of results compares: its sections, questions and claims, as data. Nothing is computed here."""

from dataclasses import dataclass

from benchmarks.results.comparison import Claim, Comparison, Question, its_method, its_own_shape, the_first

PAPERS_WINDOW = "end_0.5"  # HomoDistil with an end of pruning that the paper uses too

ORDERS = tuple((own, other) for own in ("homodistil", PAPERS_WINDOW) for other in ("one_shot", "pruned_first"))
"""Pairs of arms: is the first nearer to the teacher than the second all along training?"""

BASELINES = ("one_shot", "pruned_first", "scratch", "distilbert", "tinybert", "minilm", "minilm_v2")

_FIGURES = ("kl", "mlm_accuracy", "glue")
_ON_ALL_TEXT = ("all_kl", "all_agreement", "all_mlm_accuracy", "all_mlm_loss")


@dataclass(frozen=True)
class Section:
    """A sweep's part of the page: its tables of differences, and what else belongs to it."""

    title: str
    comparisons: tuple[Comparison, ...] = ()
    is_of_methods: bool = False  # with the order along training
    has_claims: bool = False


_METHODS = (
    Comparison(
        _FIGURES,
        shown=("shape",),
        text="Differences are the method's less HomoDistil's. A method of another shape differs by that too.",
    ),
    Comparison(_FIGURES, its_own_shape, text="Pairs of one shape:"),
)
_AT_EACH_SIZE = Comparison(within=("size", "num_tokens", "student"))
_SHAPES = Comparison(
    beside=the_first,
    of="student",
    within=("size", "arm"),
    text="Each shape (hidden size, heads × channels of a head, FFN size) beside the first of its size:",
)

SECTIONS = {
    "methods_quarter": Section("Every method at 1/4", _METHODS, is_of_methods=True),
    "computation": Section("Equal tokens, equal computation", _METHODS[:1]),
    "methods_half": Section("Every method at 1/2", _METHODS, is_of_methods=True),
    "methods_eighth": Section("HomoDistil and one-shot pruning at 1/8", _METHODS, is_of_methods=True),
    "methods_rates": Section("Learning rates of the methods"),
    "tokens_planned": Section("Quality against tokens", (_AT_EACH_SIZE,)),
    "tokens": Section("Quality against tokens, with a search of the rate and the former shape", (_AT_EACH_SIZE,)),
    "shapes": Section("Shapes", (_SHAPES, _AT_EACH_SIZE)),
    "holds": Section("How long the learning rate is held", (Comparison(beside=its_method),)),
    "ablations": Section("Ablations", has_claims=True),
    "sizes": Section("Sizes", (_AT_EACH_SIZE,)),
}
"""Sweep → its section, in the order of the page."""

HELD_OUT = Comparison(_ON_ALL_TEXT, within=("sweep", "axes"))  # on all held-out text

BARS = {"methods_half": ("a half", 0.97), "methods_quarter": ("a quarter", 0.92)}
"""Sweep → its students' size, and the share of the teacher's mean over the GLUE tasks that they should keep."""

QUESTIONS = (
    Question(
        "Is a quarter nearer to its teacher than by any baseline with the same tokens? By KL, nats",
        ("methods_quarter",),
        Comparison(("kl",), only=BASELINES),
    ),
    Question("The same by masked-LM accuracy", ("methods_quarter",), Comparison(("mlm_accuracy",), only=BASELINES)),
    Question("The same by the mean of the GLUE tasks", ("methods_quarter",), Comparison(("glue",), only=BASELINES)),
    Question(
        "And with the same computation instead of the same tokens, beside one-shot pruning?",
        ("computation",),
        Comparison(_ON_ALL_TEXT[:3], only=("one_shot_same_compute",)),
        label="metric",
    ),
    Question(
        "And at a half, at an eighth, beside one-shot pruning? By KL, nats",
        ("methods_half", "methods_eighth"),
        Comparison(("all_kl",), within=("size",), only=("one_shot",)),
        label="size",
    ),
    Question(
        "With any number of tokens, beside one-shot pruning? By KL, nats",
        ("tokens_planned",),
        Comparison(("all_kl",), within=("num_tokens",), only=("one_shot",)),
        label="num_tokens",
    ),
)

CLAIMS = (
    Claim("one_shot", "homodistil", "gradual pruning ends nearer to the teacher than one-shot pruning"),
    Claim("magnitude", "homodistil", "sensitivity is ahead of magnitude"),
    Claim("magnitude", "platon", "PLATON is ahead of magnitude"),
    Claim("movement", "homodistil", "movement falls behind sensitivity"),
    Claim("movement", "magnitude", "movement is the unstable one: it falls behind magnitude too"),
    Claim("end_0.9", "homodistil", "a late end of pruning (0.9 T, the rate held as long) hurts"),
    Claim("end_0.9", "end_0.7", "0.7 T is a better end of pruning than 0.9 T"),
    Claim("end_0.7", "homodistil", "0.5 T is a better end of pruning than 0.7 T", is_ours=True),
    Claim("no_mlm", "mlm_1", "the masked-LM term helps"),
    Claim("no_kl", "homodistil", "the KL term helps"),
    Claim("no_hidden", "homodistil", "the hidden-state term helps"),
    Claim("no_embedding", "homodistil", "the embedding term helps"),
    Claim("homodistil", "with_attention", "the attention term helps"),
    Claim(
        "outputs_late",
        "outputs_early",
        "hidden size and heads should not be pruned late (the paper: output projections)",
    ),
    Claim("random_projections", "homodistil", "projections should start as the identity", is_ours=True),
    Claim("teacher_dropout", "homodistil", "the student should have no dropout", is_ours=True),
    Claim("homodistil", "global_widths", "layers should compete for widths", is_ours=True),
    Claim("no_rotation", "homodistil", "heads should be rotated before they are pruned", is_ours=True),
    Claim("mlm_1", "homodistil", "the masked-LM term should weigh little", is_ours=True),
    Claim("hidden_10", "homodistil", "the hidden-state term should weigh more than ten", is_ours=True),
    Claim("hidden_100", "homodistil", "the hidden-state term should weigh less than a hundred", is_ours=True),
    Claim("homodistil", "end_0.3_held", "pruning should end early and the learning rate be held", is_ours=True),
    Claim("hidden_1", "homodistil", "the hidden-state term should weigh much", is_ours=True),
    Claim("homodistil", "eight_heads", "8 heads of 24 channels are better than 12 of 16", is_ours=True),
    Claim("homodistil", "six_heads", "6 heads of 32 channels are better than 12 of 16", is_ours=True),
    Claim("eight_heads", "five_layers", "one layer of six should be dropped too, at heads alike", is_ours=True),
    Claim("eight_heads", "four_layers", "two layers of six should be dropped too, at heads alike", is_ours=True),
    Claim("homodistil", "smoothing_0.97", "scores should be averaged over more batches", is_ours=True),
    Claim("homodistil", "end_0.3", "pruning should end early (0.3 T)", is_ours=True),
    Claim("linear_rate", "homodistil", "the learning rate should be held until pruning is over", is_ours=True),
)
