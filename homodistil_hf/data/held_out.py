"""Documents to train on and documents to evaluate on, where only one source of text is named."""

import math
from collections.abc import Callable
from typing import TypeAlias

from datasets import Dataset, IterableDataset

Documents: TypeAlias = Dataset | IterableDataset
_EVERY = 20  # one document in 20 …
_MOST = 2000  # … but no more than this
_OF_STREAM = 1000


def hold_out(documents: Documents, log: Callable[[str], None]) -> tuple[Documents, Documents]:
    """Split documents into those to train on and those to evaluate on, by position and so always alike.

    Args:
        documents: a table, every 20th of whose documents is held out, or a stream, whose first are.
        log: takes a line for the user.

    Raises:
        ValueError: there is one document, or none; a stream ends with those that are held out.

    Example:
    ```python
    >>> train, held_out = hold_out(Dataset.from_dict({"text": ["a", "b", "c"]}), print)
    eval_data is not set: 1 of 3 documents of train_data are held out
    >>> train["text"][:], held_out["text"][:]
    (['a', 'b'], ['c'])

    ```
    """
    if isinstance(documents, IterableDataset):
        left = documents.skip(_OF_STREAM)
        if next(iter(left), None) is None:
            raise ValueError(
                f"eval_data is not set and train_data, a stream of at most {_OF_STREAM:,} documents, has no text to "
                "train on beside what is held out; name eval_data, or leave out streaming"
            )
        log(f"eval_data is not set: the first {_OF_STREAM:,} documents of train_data are held out")
        return left, documents.take(_OF_STREAM)
    num_documents = len(documents)
    if num_documents < 2:
        raise ValueError(
            f"eval_data is not set and train_data has {num_documents} document, of which none can be held out; "
            "name eval_data"
        )
    every = min(max(_EVERY, math.ceil(num_documents / _MOST)), num_documents)
    held_out = range(every - 1, num_documents, every)
    log(f"eval_data is not set: {len(held_out):,} of {num_documents:,} documents of train_data are held out")
    kept = set(range(num_documents)) - set(held_out)
    return documents.select(sorted(kept)), documents.select(held_out)
