"""The short runs of the page: their sizes, and their variants in the order of the table.

Rows of docs/results/changes.json, each with its settings, are of this file at commit ddd812c9. Those of `frozen…` are
of commit bdd32ca, of `hidden_falls_to_3`, `ffn_by_r2d2`, `sampled_words` and `embeddings_0.3` of 7db6fe1.
`at_once_through_masks` and `every_step_through_masks` tell masks and path apart: the first takes the units that
gradual pruning with scores of every step ends with from the teacher at once, the second goes gradually to the units
that are chosen at once.
"""

from benchmarks.speed.measure import step_shape
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.whole_run import course

SIZES = {"1/2": "288-12x24-928", "1/4": "216-9x24-528", "1/8": "160-8x20-288", "1/16": "112-7x16-176"}
VARIANTS = (
    *("at_once", "gradual", "gradual_smoothing_0.99", "same_compute", "every_step"),
    *("at_once_through_masks", "every_step_through_masks", "hold_0.3", "no_hold", "64_batches", "unclipped"),
    *("rate_0.0011", "rate_0.0044", "mask_0.15", "frozen", "frozen_end_0.1", "frozen_end_0.5", "frozen_hold_0.3"),
    *("hidden_falls_to_3", "ffn_by_r2d2", "sampled_words", "embeddings_0.3", "narrow_attention"),
    "narrower_attention",
)


def as_many_steps(student: str, num_steps: int) -> int:
    """Steps of a student that is cut at once, with as many useful operations as `gradual` has in `num_steps`.

    Teacher, student, heads at predicted positions and projections count, forward and backward; the scores, which both
    ways take alike, don't.
    """
    run = BenchSettings(student=student, max_steps=num_steps, pruning_end_fraction=0.3)
    stretches = course(run.full, run.target, run.schedule)
    return round(
        sum(one.num_steps * step_shape(run, one.plan).useful_flops for one in stretches)
        / step_shape(run, run.target).useful_flops
    )
