"""What `homodistil plan` tells of budgets: HomoDistil beside one-shot pruning wherever sweeps ran both.

Distances are those on all held-out text where `benchmarks/held_out.py` took them, else those of the sweep's blocks.
`write_results.py` writes them into the package.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results.glue import tasks_kept, teachers_mean
from benchmarks.results.guidance import budget_of, by_student, kept, setting_of
from benchmarks.results.held_out_results import HeldOut
from benchmarks.results.readme import SIZES
from benchmarks.results.verdicts import METRIC, REFERENCE, Noise, by_arm, noise_of, with_common_seeds
from homodistil_hf.experiments.sweep.cells import Sweep
from homodistil_hf.experiments.sweep.folder import read_records, trained
from homodistil_hf.experiments.sweep.statistics import Record, Spread, chosen, differences, metric_of
from homodistil_hf.experiments.sweep.tables import in_order, macs_fraction
from homodistil_hf.plans.advice import Measured

SWEEPS = (*SIZES, "tokens", "tokens_planned", "shapes", "sizes")

_ONE_SHOT = "one_shot"
_VERDICTS = {1: REFERENCE, -1: _ONE_SHOT, 0: "level"}


@dataclass(frozen=True)
class Distances:
    """Students' KL on some text.

    Args:
        kls: cell of a sweep → KL in nats a masked token.
        noise: of a difference between two runs of one seed on that text.
    """

    kls: Mapping[str, float]
    noise: Noise

    def of(self, records: Iterable[Record]) -> list[float]:
        """KL of each record's student.

        Raises:
            KeyError: one was not measured.
        """
        return [self.kls[record["cell"]] for record in records]

    def covers(self, records: Iterable[Record]) -> bool:
        """Whether each record's student was measured."""
        return all(record["cell"] in self.kls for record in records)


def advice_points(sweeps: Mapping[str, Sweep], folder: Path) -> list[Measured]:
    """Gather what was measured: of each size and budget the shape with the most seeds, then the nearest.

    Args:
        sweeps: by name, with those of [`SWEEPS`] that there are.
        folder: of the results.

    Returns:
        `list[Measured]`.
    """
    held_out = HeldOut.read(folder)
    noise = noise_of(trained(read_records(folder / "methods_quarter.jsonl")))
    found: dict[tuple[int, int], Measured] = {}
    for name in (name for name in SWEEPS if name in sweeps):
        records = in_order(sweeps[name].cells, read_records(folder / f"{name}.jsonl"))
        done = chosen(trained(records), sweeps[name].choose)
        on_all_text = {record["cell"]: kl for record in done if (kl := held_out.kl(name, record)) is not None}
        texts = (
            Distances(on_all_text, held_out.noise),
            Distances({record["cell"]: metric_of(record, METRIC) for record in done}, noise),
        )
        same_compute = held_out.gaps(name, "one_shot_same_compute")
        for point in measured_points(done, texts, teachers_mean(records)):
            if same_compute:
                point = dataclasses.replace(point, same_compute_gap=rounded_mean(same_compute))
            key = (round(1 / point.encoder_macs), point.num_tokens)  # 1/8 holds those of 0.123 and of 0.126
            if key not in found or (found[key].num_seeds, -found[key].kl) < (point.num_seeds, -point.kl):
                found[key] = point
            elif point.shape == found[key].shape and not found[key].fewer_layers:
                found[key] = dataclasses.replace(found[key], fewer_layers=point.fewer_layers)
    return list(found.values())


def measured_points(
    records: Sequence[Record], texts: Sequence[Distances], teacher: float | None
) -> Iterator[Measured]:
    """One for each size, budget and shape that both were run with.

    Args:
        records: of a sweep's students.
        texts: the first that all students of a point were measured on counts; the last is the sweep's own.
        teacher: its mean over the tasks.
    """
    for (_, num_tokens, shape), group in by_student(records).items():
        arms = by_arm(group)
        own, other = with_common_seeds(arms.get(REFERENCE, []), arms.get(_ONE_SHOT, []))
        if not own:
            continue
        text = next(text for text in texts if text.covers([*own, *other]))
        kls, other_kls = text.of(own), text.of(other)
        sign = text.noise.sign([theirs - ours for ours, theirs in zip(kls, other_kls, strict=True)])
        sample_noise, shallow = texts[-1].noise, fewer_layers(records, own)
        num_seeds = min([len(own), *(len(gaps) for gaps in shallow.values())])
        yield Measured(
            encoder_macs=round(macs_fraction(own[0]), 2),
            num_tokens=num_tokens,
            num_seeds=len(own),
            shape=shape,
            learning_rate=setting_of(own[0], "learning_rate"),
            pruning_end_fraction=setting_of(own[0], "pruning_end_fraction"),
            kl=rounded_mean(kls),
            one_shot_kl=rounded_mean(other_kls),
            accuracy_kept=rounded_mean(kept(record) for record in own),
            verdict=None if text.noise.std is None else _VERDICTS[sign],
            fewer_layers={num_layers: rounded_mean(gaps) for num_layers, gaps in shallow.items()},
            threshold=None if sample_noise.std is None else round(sample_noise.threshold(num_seeds), 4),
            glue_kept=glue_kept(own, teacher),
            one_shot_glue_kept=glue_kept(other, teacher),
        )


def glue_kept(records: Sequence[Record], teacher: float | None) -> float | None:
    """The mean over tasks as a share of the teacher's, if every student was fine-tuned."""
    shares = tasks_kept(records, teacher)
    return rounded_mean(shares) if shares and len(shares) == len(records) else None


def fewer_layers(records: Iterable[Record], own: Sequence[Record]) -> dict[str, list[float]]:
    """Layers of shallow students → KL less HomoDistil's, one a seed, of the nearest with its size and tokens."""
    arms = by_arm(one for one in records if one["method"] == "shallow" and budget_of(one) == budget_of(own[0]))
    found: dict[str, list[float]] = {}
    for group in arms.values():
        num_layers, gaps = str(group[0]["method_settings"]["num_layers"]), differences(group, own, METRIC)
        if gaps and (num_layers not in found or rounded_mean(gaps) < rounded_mean(found[num_layers])):
            found[num_layers] = gaps
    return found


def rounded_mean(values: Iterable[float]) -> float:
    return round(Spread.of(values).mean, 4)
