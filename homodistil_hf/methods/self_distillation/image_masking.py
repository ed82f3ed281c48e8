"""Images → batches for masked auto-encoding, whose masked patches depend on nothing but (seed, epoch, row).

`trainer.py` checks the tensors; the model's configuration says how many patches are masked.

Shapes: B batch, C channels, Y height, X width, P patches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...data.masking import SeededMasks, row_counter
from ...files.messages import short_repr


class MaskedImageCollator(SeededMasks):
    """Batch images, and give each a random order of its patches, of which a masked auto-encoder keeps the first.

    The same row gets the same order in the same epoch whatever the batch, rank, worker or resume, as with
    [`MaskedLMCollator`].

    Args:
        num_patches: of an image, ≥ 1.
        seed: of the orders, 0 … 2⁶⁴ − 1.

    Raises:
        ValueError: `num_patches` or `seed` out of range.

    Example:
    ```python
    >>> collator = MaskedImageCollator(4)
    >>> batch = collator([{"pixel_values": torch.zeros(3, 2, 2), "example_id": 0}])
    >>> batch["pixel_values"].shape, sorted(batch["noise"][0].tolist())
    (torch.Size([1, 3, 2, 2]), [0.0, 1.0, 2.0, 3.0])

    ```
    """

    def __init__(self, num_patches: int, *, seed: int = 0) -> None:
        if num_patches < 1:
            raise ValueError(f"num_patches={num_patches} is below 1; expected the number of patches of an image")
        super().__init__(seed)
        self.num_patches = num_patches

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch rows.

        Args:
            rows: each with `pixel_values` (C, Y, X) of one size, and optionally `example_id`, an integer. Other
                columns are ignored.

        Returns:
            `dict`: `pixel_values` (B, C, Y, X), and `noise` (B, P), a permutation of 0 … P − 1 a row; float32 both.

        Raises:
            ValueError: a row without `pixel_values`, or images of several sizes.
        """
        images = [_image(row) for row in rows]
        if len(shapes := {image.shape for image in images}) != 1:
            raise ValueError(f"images of a batch have shapes {short_repr(sorted(shapes))}; make them all one size")
        noise = [self._order(row, image) for row, image in zip(rows, images, strict=True)]
        return {"pixel_values": torch.from_numpy(np.stack(images)), "noise": torch.from_numpy(np.stack(noise))}

    def _order(self, row: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
        generator = self.generator()
        state: Any = generator.state
        state["state"]["counter"] = np.array(row_counter(row, image.astype("<f4").tobytes()), dtype=np.uint64)
        generator.state = state
        # Ranks of raw words and not the words: equal ones would be ordered differently on different devices.
        return generator.random_raw(self.num_patches).argsort(kind="stable").astype(np.float32)


def _image(row: Mapping[str, Any]) -> np.ndarray:
    if "pixel_values" not in row:
        raise ValueError(
            f"a row has columns {short_repr(sorted(map(str, row)))}, but no pixel_values; make them with the model's "
            "image processor"
        )
    return np.asarray(row["pixel_values"], dtype=np.float32)
