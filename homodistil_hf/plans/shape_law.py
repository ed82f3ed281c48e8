"""How far from its teacher a student of given widths ends: a law that was fitted to runs.

Of all shapes of one cost, budgets.py takes the one that ends nearest. `python -m benchmarks.results.shape_law` fits
the constants to the runs of docs/results.md, section 4.
"""

from typing import NamedTuple


class Term(NamedTuple):
    """What one width costs: `weight` · (s^−`power` − 1) nats, s its share of the teacher's in (0, 1]."""

    weight: float
    power: float


class ShapeLaw(NamedTuple):
    r"""\\(KL = E + \\sum_w c_w (s_w^{-p_w} - 1)\\) over the widths of a uniform student, shares s_w of its teacher's.

    Args:
        least: E, of a student of its teacher's widths after such a run, nats.
        layers: of the number of layers.
        hidden_size: of the hidden size.
        num_heads: of a layer's attention heads.
        head_dim: of the channels of a head.
        ffn_size: of a layer's FFN neurons.
    """

    least: float
    layers: Term
    hidden_size: Term
    num_heads: Term
    head_dim: Term
    ffn_size: Term

    def __call__(self, **shares: float) -> float:
        """Return the KL, nats a masked token, of a student with these shares of its teacher's widths, in (0, 1]."""
        terms: dict[str, Term] = {name: getattr(self, name) for name in shares}
        return self.least + sum(one.weight * (shares[name] ** -one.power - 1) for name, one in terms.items())


SHAPE_LAW = ShapeLaw(
    least=0.07679,
    layers=Term(0.2057, 1.169),
    hidden_size=Term(0.04007, 1.777),
    num_heads=Term(0.08224, 0.7857),
    head_dim=Term(0.01953, 2.273),
    ffn_size=Term(0.116, 0.3304),
)
"""Of a BERT of 6 layers × 384, a half to a sixteenth of its encoder MACs, 2 million tokens of masked words.

For all others it is an extrapolation."""
