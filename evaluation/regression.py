"""Score predictions of one number per creative, with intervals, and compare with baselines and ablations.

The bootstrap draws creatives with replacement. The model, its baselines and its ablations share the resamples, so
their differences are paired. A resample is stored as one weight per creative (how often it was drawn). Scores with
these weights equal the scores of the rows repeated that often.
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

SAMPLES = 1000  # bootstrap resamples
CELLS = 2_000_000  # weights in memory at once: 16 MB per array
FEWEST = 6  # creatives; fewer are all on one side of the truth by chance too often for any interval
PARTS = 5  # groups of creatives by target, for the residuals
MODEL = "the model"  # its name next to baselines and ablations
MORE_IS_BETTER = {"spearman": True, "pearson": True, "r2": True, "mae": False, "rmse": False}
# Not a correlation: the mean baseline is a constant, which has none. R2 ranks models as RMSE does.
DECIDING = "r2"
DIFFERENCE = "how much better the model is: its score minus the other's, for errors the other's minus its own"
RULE = (
    "the model beats a baseline if the interval of the difference of their R2 is above 0, both scored on the same "
    f"resamples of {FEWEST} or more creatives; if all resamples give the same difference, an exact test over "
    "creatives decides"
)
MATTERS = (
    "a modality matters to this model if the interval of its R2 minus the R2 without the modality is above 0, both "
    f"scored on the same resamples of {FEWEST} or more creatives"
)

Scores = dict[str, np.ndarray]  # score -> (S,), NaN where it is not defined


@dataclass(frozen=True)
class Distribution:
    mean: float
    std: float
    lowest: float
    median: float
    highest: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Distribution":
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

    matter: list[str]  # the largest loss first
    not_shown: list[str]
    not_judged: list[str]  # no ablation removes them
    by: dict[str, list[str]]  # modality -> all scores that get worse without it
    removals: dict[str, str | None]  # modality -> the ablation that removes it
    score: str
    rule: str


@dataclass(frozen=True)
class BaselineVerdict:
    """Which baselines the model beats, by the deciding score."""

    verdict: str  # as a phrase
    beaten: list[str]
    unbeaten: list[str]
    score: str
    rule: str


# The mean of predicted minus measured, in one part of the targets' range. The functional form is needed because `from`
# is a keyword.
Residual = TypedDict("Residual", {"from": float, "to": float, "rows": int, "residual": Interval, "mae": float})


@dataclass(frozen=True)
class RegressionResults:
    """The results on the scored rows, as stored in metrics.json."""

    unit: str  # of the targets
    rows: int
    lacking: dict[str, int]  # modality -> rows without it
    lacking_all: int
    samples: int  # bootstrap resamples
    seed: int
    targets: Distribution
    predictions: Distribution
    scores: dict[str, Interval]
    difference_is: str
    baselines: dict[str, Comparison]
    ablations: dict[str, Comparison]
    modalities: ModalityFindings
    residuals: list[Residual]  # lowest targets first
    verdict: BaselineVerdict


def scores_of(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Return Spearman, Pearson, R2, MAE and RMSE, each (S,), of targets (N,) and predictions (N,) in one unit.

    Ranks are taken within the resample: equal values, and copies of a row that was drawn twice, share their mean rank.
    R2 is 1 - squared error / squared distance from the mean of the resample's targets. No model knows that mean
    beforehand, so the mean of the training targets scores a little below 0. Correlations with a constant (it varies
    by less than a millionth of its root mean square) and the R2 of constant targets are NaN.

    Args:
        weights: (S, N), how often each row counts in each resample; None counts each row once, and S is 1.
    """
    targets, predictions = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(
            f"targets.shape={targets.shape}, predictions.shape={predictions.shape}: both must be (N,). Give one "
            "number per row."
        )
    weights = np.ones((1, len(targets))) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(targets):
        raise ValueError(
            f"weights.shape={weights.shape}: must be (S, {len(targets)}). Give one weight per resample and row."
        )
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
    """Return the mean ranks (S, N) of values (N,) in resamples that contain each row `weights` (S, N) times."""
    # A group of g equal values that follows c smaller rows has the mean rank c + (g + 1) / 2.
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.r_[len(values) > 0, ordered[1:] != ordered[:-1]])  # start of each group
    group = np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]])[: len(values)]
    size = np.add.reduceat(weights[:, order], first, axis=1) if len(first) else np.zeros((len(weights), 0))
    ranks = np.empty_like(weights)
    ranks[:, order] = (np.cumsum(size, axis=1) - size + (size + 1) / 2)[:, group]
    return ranks


def centred(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return values (N,) or (S, N) minus their mean in each resample, (S, N)."""
    with np.errstate(invalid="ignore"):
        mean = (values * weights).sum(axis=1) / weights.sum(axis=1)
    return values - mean[:, None]


def weighted_product(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the weighted sum (S,) of the products of a and b, (S, N) each."""
    return np.einsum("sn,sn,sn->s", weights, a, b)


def varies(values: np.ndarray, centred_values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, per resample (S,), whether values (N,) are more than a constant with rounding noise."""
    variation = weighted_product(weights, centred_values, centred_values)
    return variation > ROUNDING**2 * (weights @ values**2)


def correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson's r (S,) of centred values (S, N)."""
    squares = weighted_product(weights, a, a) * weighted_product(weights, b, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(weighted_product(weights, a, b) / np.sqrt(squares), -1, 1)


def drawn_weights(rows: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each row counts in each resample, in blocks (s, N) of about CELLS weights."""
    generator = np.random.default_rng(seed)
    size = max(1, CELLS // rows)
    for start in range(0, samples, size):
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size=min(size, samples - start)).astype(np.float64)


def all_weights(rows: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the weights of the original rows (1, N), then those of the resamples."""
    return chain([np.ones((1, rows))], drawn_weights(rows, samples, seed))


def bootstrap_scores(
    targets: np.ndarray, predictions: Mapping[str, np.ndarray], samples: int, seed: int
) -> dict[str, Scores]:
    """Score several predictions (N,) on the same rows and resamples: (1 + S,) per score."""
    blocks: dict[str, list[Scores]] = {name: [] for name in predictions}
    for weights in all_weights(len(targets), samples, seed):
        for name, values in predictions.items():
            blocks[name].append(scores_of(targets, values, weights))
    return {
        name: {score: np.concatenate([block[score] for block in scores]) for score in MORE_IS_BETTER}
        for name, scores in blocks.items()
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
        ids: of the creatives, (N,), unique.
        targets, predictions: (N,), in `unit`.
        baselines: name -> predictions (N,) that the model has to beat; at least one.
        ablations: name ("text alone", "without text") -> predictions (N,) of the same model with fewer inputs.
        present: modality -> (N,) bool, whether the model got this input.
        unit: of the targets, for display.
    """
    rows, targets = len(ids), np.asarray(targets, np.float64)
    by_name = {MODEL: predictions, **baselines, **ablations}
    by_name = {name: np.asarray(values, np.float64) for name, values in by_name.items()}
    check_inputs(ids, targets, by_name, baselines, ablations, present)
    scores = bootstrap_scores(targets, by_name, samples, seed)
    reasons = {name: undefined_scores(targets, values) for name, values in by_name.items()}

    def compare(name: str) -> Comparison:
        gain = {
            score: (own - scores[name][score]) * (1 if MORE_IS_BETTER[score] else -1)
            for score, own in scores[MODEL].items()
        }
        # The model's reason comes last, so that it replaces the other's.
        whose = {score: f"{who}: {reason}" for who in (name, MODEL) for score, reason in reasons[who].items()}
        return Comparison(score_intervals(scores[name], rows, reasons[name]), score_intervals(gain, rows, whose))

    compared, ablated = {name: compare(name) for name in baselines}, {name: compare(name) for name in ablations}
    is_present = np.array([np.asarray(flags, bool) for flags in present.values()]).reshape(-1, rows)
    return RegressionResults(
        unit=unit,
        rows=rows,
        lacking={name: int((~flags).sum()) for name, flags in zip(present, is_present, strict=True)},
        lacking_all=int((~is_present.any(axis=0)).sum()) if len(is_present) else 0,
        samples=samples,
        seed=seed,
        targets=Distribution.of(targets),
        predictions=Distribution.of(by_name[MODEL]),
        scores=score_intervals(scores[MODEL], rows, reasons[MODEL]),
        difference_is=DIFFERENCE,
        baselines=compared,
        ablations=ablated,
        modalities=judge_modalities(list(present), ablated, rows),
        residuals=residuals_by_target(targets, by_name[MODEL], samples, seed),
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
    """Raise ValueError if the rows cannot be scored; the message names the input and the creative."""
    if not len(ids):
        raise ValueError("ids=0 creatives: nothing to score. Give at least one row with a target.")
    if len(set(ids)) < len(ids):
        duplicate = next(name for row, name in enumerate(ids) if name in ids[:row])
        # The bootstrap draws rows, so a creative with two rows would not be drawn as a whole.
        raise ValueError(f"ids={duplicate!r}: occurs more than once. Give each creative one row.")
    if not baselines:
        raise ValueError("baselines={}: at least one is needed. Give the mean of the training targets.")
    if duplicates := set(baselines) & set(ablations) or {MODEL} & (set(baselines) | set(ablations)):
        raise ValueError(
            f"baselines, ablations: the names {sorted(duplicates)} are not unique. Give baselines and ablations "
            f"different names, none of them {MODEL!r}."
        )
    for who, values in {"targets": targets, **predictions}.items():
        if values.shape != (len(ids),):
            raise ValueError(f"{who}: shape={values.shape}: must be ({len(ids)},). Give one number per creative.")
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax())
            raise ValueError(
                f"{who}: {ids[row]!r} is {values[row]}: must be finite. Leave out rows without a target, or find out "
                "why the model predicts this."
            )
    for name, flags in present.items():
        if np.shape(flags) != (len(ids),):
            raise ValueError(
                f"present[{name!r}].shape={np.shape(flags)}: must be ({len(ids)},). Give one flag per creative."
            )


def residuals_by_target(targets: np.ndarray, predictions: np.ndarray, samples: int, seed: int) -> list[Residual]:
    """Return the mean of predicted minus measured in each part of the targets' range, with its interval."""
    parts = parts_of(targets)  # (Q, N)
    residual = predictions - targets
    blocks = []
    for weights in all_weights(len(targets), samples, seed):
        with np.errstate(invalid="ignore"):  # a resample may contain no row of a part
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
    """Return which rows are in each fifth of the targets, lowest first, (Q, N) bool; equal targets stay together."""
    inner = np.unique(np.quantile(targets, np.arange(1, PARTS) / PARTS))
    codes = np.unique(np.searchsorted(inner, targets, side="left"), return_inverse=True)[1]
    return codes == np.arange(codes.max() + 1)[:, None]


def score_intervals(scores: Scores, rows: int, reasons: Mapping[str, str]) -> dict[str, Interval]:
    return {name: score_interval(values, rows, reasons.get(name)) for name, values in scores.items()}


def score_interval(values: np.ndarray, rows: int, reason: str | None = None) -> Interval:
    """Return the interval of a score from values (1 + S,), the first of which is on the original rows."""
    interval = interval_of(float(values[0]), values[1:], {"creatives": rows}, rows, kind="creative")
    return replace(interval, reason=reason) if interval.mean is None and reason else interval


def undefined_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, str]:
    """Return why scores are not defined: score -> reason."""
    once = np.ones((1, len(targets)))
    constant = [not varies(values, centred(values, once), once)[0] for values in (targets, predictions)]
    if constant[0]:
        return dict.fromkeys(("spearman", "pearson", "r2"), "all targets are equal")
    return dict.fromkeys(("spearman", "pearson"), "all predictions are equal") if constant[1] else {}


def removal_of(modality: str, modalities: Sequence[str], ablated: Mapping[str, Comparison]) -> str | None:
    """Return the name of the ablation that removes a modality, None if there is none."""
    names = [f"without {modality}"]
    if len(modalities) == 2:  # then removing one is the same as using only the other
        names += [f"{other} alone" for other in modalities if other != modality]
    return next((name for name in names if name in ablated), None)


def judge_modalities(modalities: Sequence[str], ablated: Mapping[str, Comparison], rows: int) -> ModalityFindings:
    """Find the modalities without which the deciding score gets worse."""
    removals = {name: removal_of(name, modalities, ablated) for name in modalities}
    lost = {name: ablated[removal].difference for name, removal in removals.items() if removal}
    costs = {
        name: [score for score in MORE_IS_BETTER if rows >= FEWEST and is_above_zero(differences[score])]
        for name, differences in lost.items()
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
    """Find the baselines that the model beats, and phrase the verdict."""
    beaten = [name for name, each in compared.items() if rows >= FEWEST and is_above_zero(each.difference[DECIDING])]
    unbeaten = [name for name in compared if name not in beaten]
    few = f" (creatives: {rows}, fewer than {FEWEST})" if rows < FEWEST else ""
    worse = f"not shown to be better than {join_names(unbeaten)}{few}"
    verdict = worse if unbeaten else f"better than {join_names(beaten)}"
    return BaselineVerdict(verdict, beaten, unbeaten, DECIDING, RULE)


def join_names(names: Sequence[str]) -> str:
    """Join names to a phrase: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
