"""Score predictions of one number per creative, with intervals, against baselines and without each modality.

Creatives are drawn with replacement. The model, its baselines and its ablations share the resamples, so that their
differences are paired. A resample is a weight per creative (how often it was drawn), and scores with these weights
equal those of the rows repeated as often as they were drawn.
"""

# N creatives, S resamples, Q parts of the targets' range

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypedDict, cast

import numpy as np

from evaluation.intervals import Interval, interval_of
from evaluation.masked import ROUNDING
from evaluation.verdict import is_above_zero

SAMPLES = 1000  # of the bootstrap
CELLS = 2_000_000  # weights that are held at once: 16 MB per array
FEWEST = 6  # creatives; fewer lie on one side of the truth by chance too often for any interval over them
PARTS = 5  # of the creatives by their target, for the residuals
MODEL = "the model"  # among the names of baselines and ablations
MORE_IS_BETTER = {"spearman": True, "pearson": True, "r2": True, "mae": False, "rmse": False}
# A constant has no correlation, so one cannot tell whether a model beats the mean; R2 can, and ranks as RMSE does.
DECIDING = "r2"
DIFFERENCE = "how much better the model is: its score less the other's, for errors the other's less its own"
RULE = (
    "better than a baseline is a model whose R2 less the baseline's has an interval above 0, both on the same "
    f"resamples of creatives, of which there are {FEWEST} or more; where all resamples agree, an exact test over "
    "creatives takes its place"
)
MATTERS = (
    "a modality matters to this model if its R2 less that without the modality has an interval above 0, both on the "
    f"same resamples of creatives, of which there are {FEWEST} or more"
)

Scores = dict[str, np.ndarray]  # score -> (S,), NaN where it is not defined


@dataclass(frozen=True)
class Distribution:
    """Where values lie, in their unit."""

    mean: float
    std: float
    lowest: float
    median: float
    highest: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Distribution":
        """Describe values (N,)."""
        return cls(
            mean=float(values.mean()),
            std=float(values.std()),
            lowest=float(values.min()),
            median=float(np.median(values)),
            highest=float(values.max()),
        )


@dataclass(frozen=True)
class Comparison:
    """The scores of a baseline or an ablation, and how much better the model is."""

    scores: dict[str, Interval]
    difference: dict[str, Interval]


@dataclass(frozen=True)
class ModalityFindings:
    """Which modalities the model needs, by the deciding score."""

    matter: list[str]  # the one that costs most comes first
    not_shown: list[str]
    not_judged: list[str]  # the model was not scored without them
    by: dict[str, list[str]]  # modality -> all scores by which its removal costs
    removals: dict[str, str | None]  # modality -> the ablation that removes it
    score: str
    rule: str


@dataclass(frozen=True)
class BaselineVerdict:
    """Which baselines the model beats, by the deciding score."""

    verdict: str  # in words
    beaten: list[str]
    unbeaten: list[str]
    score: str
    rule: str


# The mean of predicted less measured in one part of the targets' range. (No class: `from` is a keyword.)
Residual = TypedDict("Residual", {"from": float, "to": float, "rows": int, "residual": Interval, "mae": float})


@dataclass(frozen=True)
class RegressionResults:
    """Everything about the scored rows, as recorded in metrics.json."""

    unit: str  # of the targets
    rows: int
    lacking: dict[str, int]  # modality -> rows without it
    lacking_all: int
    samples: int  # of the bootstrap
    seed: int
    targets: Distribution
    predictions: Distribution
    scores: dict[str, Interval]
    difference_is: str
    baselines: dict[str, Comparison]
    ablations: dict[str, Comparison]
    modalities: ModalityFindings
    residuals: list[Residual]  # the lowest targets come first
    verdict: BaselineVerdict


def scores_of(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Return Spearman, Pearson, R2, MAE and RMSE, each (S,), of targets (N,) and predictions (N,) in one unit.

    Ranks are those within the resample: equal values, and the copies of a row that was drawn twice, share their mean
    rank. R2 is 1 - squared error / squared distance from the mean of the resample's own targets, which no model knows
    beforehand: the mean of the training targets scores a little below 0. A constant (it varies by less than a
    millionth of its root mean square) has no correlation, and constant targets have no R2: NaN.

    Args:
        weights: (S, N), how often each row counts in each resample; None counts each once, and S is 1.
    """
    targets, predictions = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"{targets.shape = } and {predictions.shape = } must be (N,), a number each a row")
    weights = np.ones((1, len(targets))) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(targets):
        raise ValueError(f"{weights.shape = } must be (S, N), with N = {len(targets)} rows")
    total = weights.sum(axis=1)  # (S,)
    error = predictions - targets
    centred_targets, centred_predictions = centred(targets, weights), centred(predictions, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        squared, absolute = weights @ error**2 / total, weights @ np.abs(error) / total
        r2 = 1 - squared / (weighted_product(weights, centred_targets, centred_targets) / total)
    has_r2 = varies(targets, centred_targets, weights)
    has_correlation = has_r2 & varies(predictions, centred_predictions, weights)
    target_ranks = centred(ranks_of(targets, weights), weights)
    prediction_ranks = centred(ranks_of(predictions, weights), weights)
    spearman = correlation(target_ranks, prediction_ranks, weights)
    pearson = correlation(centred_targets, centred_predictions, weights)
    return {
        "spearman": np.where(has_correlation, spearman, np.nan),
        "pearson": np.where(has_correlation, pearson, np.nan),
        "r2": np.where(has_r2, r2, np.nan),
        "mae": absolute,
        "rmse": np.sqrt(squared),
    }


def ranks_of(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean ranks (S, N) of values (N,) in resamples that hold each row `weights` (S, N) times.

    A group of g equal values that follows c rows has rank c + (g + 1) / 2.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.r_[len(values) > 0, ordered[1:] != ordered[:-1]])  # where each group begins
    group = np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]])[: len(values)]
    size = np.add.reduceat(weights[:, order], first, axis=1) if len(first) else np.zeros((len(weights), 0))
    ranks = np.empty_like(weights)
    ranks[:, order] = (np.cumsum(size, axis=1) - size + (size + 1) / 2)[:, group]
    return ranks


def centred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return values (N,) or (S, N) less their mean in each resample, (S, N)."""
    with np.errstate(invalid="ignore"):
        mean = (values * weights).sum(axis=1) / weights.sum(axis=1)
    return values - mean[:, None]


def weighted_product(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum (S,) of products of a and b (S, N), each counted as often as its row was drawn."""
    return np.einsum("sn,sn,sn->s", weights, a, b)


def varies(values: np.ndarray, centred_values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Tell for each resample (S,) whether values (N,) are more than a constant with rounding noise."""
    variation = weighted_product(weights, centred_values, centred_values)
    return variation > ROUNDING**2 * (weights @ values**2)


def correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's r (S,) of centred values (S, N)."""
    squares = weighted_product(weights, a, a) * weighted_product(weights, b, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(weighted_product(weights, a, b) / np.sqrt(squares), -1, 1)


def drawn_weights(rows: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each row counts in each resample, some resamples (s, N) at a time."""
    generator = np.random.default_rng(seed)
    size = max(1, CELLS // rows)
    for start in range(0, samples, size):
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size=min(size, samples - start)).astype(np.float64)


def all_weights(rows: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the weights of the rows as they are (1, N), then those of the resamples."""
    return chain([np.ones((1, rows))], drawn_weights(rows, samples, seed))


def bootstrap_scores(
    targets: np.ndarray, predictions: Mapping[str, np.ndarray], samples: int, seed: int
) -> dict[str, Scores]:
    """Score each of several predictions (N,) on the same rows and resamples, (1 + S,) each."""
    blocks: dict[str, list[Scores]] = {name: [] for name in predictions}
    for weights in all_weights(len(targets), samples, seed):
        for name, values in predictions.items():
            blocks[name].append(scores_of(targets, values, weights))
    return {
        name: {score: np.concatenate([block[score] for block in found]) for score in MORE_IS_BETTER}
        for name, found in blocks.items()
    }


def assess(
    ids: Sequence[str],
    targets: np.ndarray,
    predictions: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    ablations: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    unit: str,
    samples: int = SAMPLES,
    seed: int = 0,
) -> RegressionResults:
    """Score every row, compare the model with baselines and ablations, and judge both.

    Args:
        ids: of the creatives, (N,), each once.
        targets, predictions: (N,), in `unit`.
        baselines: the predictions that the model has to beat, (N,) by name; at least one.
        ablations: predictions of the same model with fewer inputs, (N,) by name: "text alone", "without text".
        present: modality -> (N,) bool: the inputs that the model was given.
        unit: of the targets, for people.
    """
    rows, targets = len(ids), np.asarray(targets, np.float64)
    everyone = {MODEL: predictions, **baselines, **ablations}
    everyone = {name: np.asarray(values, np.float64) for name, values in everyone.items()}
    check_inputs(ids, targets, everyone, baselines, ablations, present)
    scores = bootstrap_scores(targets, everyone, samples, seed)
    reasons = {name: undefined_scores(targets, values) for name, values in everyone.items()}

    def compare(name: str) -> Comparison:
        gain = {
            score: (own - scores[name][score]) * (1 if MORE_IS_BETTER[score] else -1)
            for score, own in scores[MODEL].items()
        }
        why = {score: f"{who}: {reason}" for who in (name, MODEL) for score, reason in reasons[who].items()}
        return Comparison(score_intervals(scores[name], rows, reasons[name]), score_intervals(gain, rows, why))

    compared, ablated = {name: compare(name) for name in baselines}, {name: compare(name) for name in ablations}
    given = np.array([np.asarray(flags, bool) for flags in present.values()]).reshape(-1, rows)
    return RegressionResults(
        unit=unit,
        rows=rows,
        lacking={name: int((~flags).sum()) for name, flags in zip(present, given, strict=True)},
        lacking_all=int((~given.any(axis=0)).sum()) if len(given) else 0,
        samples=samples,
        seed=seed,
        targets=Distribution.of(targets),
        predictions=Distribution.of(everyone[MODEL]),
        scores=score_intervals(scores[MODEL], rows, reasons[MODEL]),
        difference_is=DIFFERENCE,
        baselines=compared,
        ablations=ablated,
        modalities=judge_modalities(list(present), ablated, rows),
        residuals=residuals_by_target(targets, everyone[MODEL], samples, seed),
        verdict=judge_baselines(compared, rows),
    )


def check_inputs(
    ids: Sequence[str],
    targets: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    baselines: Mapping[str, np.ndarray],
    ablations: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> None:
    """Refuse rows that cannot be scored, by name and row."""
    if not len(ids):
        raise ValueError("there is no creative to score; give at least one row with a target")
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise ValueError(f"ids: {twice!r} stands there twice; give each creative one row, for rows are drawn as such")
    if not baselines:
        raise ValueError("baselines: none was given; give at least the mean of the training targets")
    if both := set(baselines) & set(ablations) or {MODEL} & (set(baselines) | set(ablations)):
        raise ValueError(f"{sorted(both)}: names of baselines and ablations must differ, also from {MODEL!r}")
    for who, values in {"targets": targets, **predictions}.items():
        if values.shape != (len(ids),):
            raise ValueError(f"{who}: {values.shape} was given; it takes ({len(ids)},), a number a creative")
        if not np.isfinite(values).all():
            place = int((~np.isfinite(values)).argmax())
            raise ValueError(
                f"{who}: that of {ids[place]!r} is {values[place]}; leave out rows without a target, and find out why "
                "a model predicts what is no number"
            )
    for name, flags in present.items():
        if np.shape(flags) != (len(ids),):
            raise ValueError(f"present: {name} is {np.shape(flags)}; it takes ({len(ids)},), a yes or no a creative")


def residuals_by_target(targets: np.ndarray, predictions: np.ndarray, samples: int, seed: int) -> list[Residual]:
    """Return the mean of predicted less measured in each part of the targets' range, with its interval."""
    parts = parts_of(targets)  # (Q, N)
    residual = predictions - targets
    blocks = []
    for weights in all_weights(len(targets), samples, seed):
        with np.errstate(invalid="ignore"):  # a resample may hold no row of a part
            blocks.append((weights @ (parts * residual).T) / (weights @ parts.T))  # (s, Q)
    means = np.concatenate(blocks)  # (1 + S, Q)
    return [
        {
            "from": float(targets[part].min()),
            "to": float(targets[part].max()),
            "rows": int(part.sum()),
            "residual": score_interval(mean, int(part.sum())),
            "mae": float(np.abs(residual[part]).mean()),
        }
        for part, mean in zip(parts, means.T, strict=True)
    ]


def parts_of(targets: np.ndarray) -> np.ndarray:
    """Tell which rows are in each fifth of the targets, the lowest first, (Q, N) bool; equal targets stay together."""
    inner = np.unique(np.quantile(targets, np.arange(1, PARTS) / PARTS))
    codes = np.unique(np.searchsorted(inner, targets, side="left"), return_inverse=True)[1]
    return codes == np.arange(codes.max() + 1)[:, None]


def score_intervals(scores: Scores, rows: int, reasons: Mapping[str, str]) -> dict[str, Interval]:
    """Return each score's interval; `reasons` say why some are not defined."""
    return {name: score_interval(values, rows, reasons.get(name)) for name, values in scores.items()}


def score_interval(values: np.ndarray, rows: int, reason: str | None = None) -> Interval:
    """Return a score and its bounds from values (1 + S,), of which the first is that of the rows as they are."""
    found = interval_of(float(values[0]), values[1:], {"creatives": rows}, rows, kind="creative")
    return replace(found, reason=reason) if found.mean is None and reason else found


def undefined_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, str]:
    """Return the scores that are not defined, and why."""
    once = np.ones((1, len(targets)))
    constant = [not varies(values, centred(values, once), once)[0] for values in (targets, predictions)]
    if constant[0]:
        return dict.fromkeys(("spearman", "pearson", "r2"), "all targets are equal")
    return dict.fromkeys(("spearman", "pearson"), "all predictions are equal") if constant[1] else {}


def removal_of(modality: str, modalities: Sequence[str], ablated: Mapping[str, Comparison]) -> str | None:
    """Return the ablation without a modality; of two modalities, that of the other one alone."""
    names = [f"without {modality}"]
    if len(modalities) == 2:
        names += [f"{other} alone" for other in modalities if other != modality]
    return next((name for name in names if name in ablated), None)


def judge_modalities(modalities: Sequence[str], ablated: Mapping[str, Comparison], rows: int) -> ModalityFindings:
    """Find the modalities whose removal costs the model some of its deciding score."""
    removals = {name: removal_of(name, modalities, ablated) for name in modalities}
    lost = {name: ablated[removal].difference for name, removal in removals.items() if removal}
    costs = {
        name: [score for score in MORE_IS_BETTER if rows >= FEWEST and is_above_zero(of[score])]
        for name, of in lost.items()
    }
    matter = [name for name, scores in costs.items() if DECIDING in scores]
    matter.sort(key=lambda name: -cast(float, lost[name][DECIDING].mean))
    return ModalityFindings(
        matter=matter,
        not_shown=[name for name in lost if name not in matter],
        not_judged=[name for name in modalities if name not in lost],
        by=costs,
        removals=removals,
        score=DECIDING,
        rule=MATTERS,
    )


def judge_baselines(compared: Mapping[str, Comparison], rows: int) -> BaselineVerdict:
    """Find the baselines that the model beats, and say so in a line."""
    beaten = [name for name, found in compared.items() if rows >= FEWEST and is_above_zero(found.difference[DECIDING])]
    unbeaten = [name for name in compared if name not in beaten]
    few = f" (creatives: {rows}, fewer than {FEWEST})" if rows < FEWEST else ""
    worse = f"not shown to be better than {join_names(unbeaten)}{few}"
    verdict = worse if unbeaten else f"better than {join_names(beaten)}"
    return BaselineVerdict(verdict, beaten, unbeaten, DECIDING, RULE)


def join_names(names: Sequence[str]) -> str:
    """Join names in words: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
