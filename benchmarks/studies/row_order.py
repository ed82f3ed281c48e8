"""What grouping a task's rows by length saves: the tokens, with padding, that a pass over them computes.

    python -m benchmarks.studies.row_order --teacher TEACHER --train_data TASK-train.parquet --max_seq_length N

The words are settings of `homodistil distill`. `docs/results/row_order.json` has the shares as `tokens_computed`.
"""

import random
import sys
from collections.abc import Sequence

from homodistil_hf.data.lengths import LengthSampler
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.kinds import run_kind_of

ROWS_OF_A_STEP = 16


def tokens_computed(lengths: Sequence[int], order: Sequence[int]) -> int:
    """Tokens of all steps, each as long as its longest row; rows that fill no step are left out.

    Example:
    ```python
    >>> tokens_computed([2, 5] * 16, range(32)), tokens_computed([2, 5] * 16, [*range(0, 32, 2), *range(1, 32, 2)])
    (160, 112)

    ```
    """
    num_whole = len(order) // ROWS_OF_A_STEP * ROWS_OF_A_STEP
    steps = (order[start : start + ROWS_OF_A_STEP] for start in range(0, num_whole, ROWS_OF_A_STEP))
    return sum(ROWS_OF_A_STEP * max(lengths[row] for row in step) for step in steps)


def main() -> None:
    settings = parse_run([*sys.argv[1:], "--output_dir", "unused"])
    kind = run_kind_of(settings)
    grouped = LengthSampler(kind.rows(settings, kind.inputs(settings), print).train, batch_size=ROWS_OF_A_STEP, seed=0)
    shuffled = list(range(len(grouped)))
    random.Random(0).shuffle(shuffled)
    share = tokens_computed(grouped.lengths, list(grouped)) / tokens_computed(grouped.lengths, shuffled)
    print(f"grouped by length, {share:.3f} of the tokens of a random order are computed")


if __name__ == "__main__":
    main()
