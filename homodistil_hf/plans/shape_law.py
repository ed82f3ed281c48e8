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
    least=0.07874,
    layers=Term(0.3099, 0.8693),
    hidden_size=Term(0.03978, 1.8),
    num_heads=Term(0.08622, 0.7175),
    head_dim=Term(0.01434, 2.582),
    ffn_size=Term(0.1216, 0.3173),
)
"""Of a BERT of 6 layers × 384, a half to a sixteenth of its encoder MACs, 2 million tokens of masked words.

For all others it is an extrapolation."""
