"""How near predictions of one number a creative come to what was measured: scores, intervals, and what to beat.

Creatives are drawn with replacement. One set of resamples serves the model, its baselines and its ablations, so that
their differences are paired. A resample is a weight a creative (how often it was drawn), and every score is taken with
these weights: the same as that of the rows written out as often as they were drawn.
"""

# N creatives, S resamples, Q parts of the targets' range

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.intervals import interval_of
from evaluation.masked import ROUNDING

SAMPLES = 1000  # of the bootstrap
CELLS = 2_000_000  # weights that are held at once: 16 MB an array
FEWEST = 6  # creatives; fewer lie on one side of the truth by chance too often for any interval over them
PARTS = 5  # of the creatives by their target, for the residuals
MORE_IS_BETTER = {"spearman": True, "pearson": True, "r2": True, "mae": False, "rmse": False}
# A constant has no correlation, so one cannot tell whether a model beats the mean; R2 can, and ranks as RMSE does.
DECIDING = "r2"
DIFFERENCE = "how much better the model is: its score less the other's, for errors the other's less its own"
RULE = (
    "better than a baseline is a model whose R2 less the baseline's has an interval above 0, both on the same "
    f"resamples of creatives, of which there are {FEWEST} or more"
)
MATTERS = (
    "a modality matters to this model if its R2 less that without the modality has an interval above 0, both on the "
    f"same resamples of creatives, of which there are {FEWEST} or more"
)

Scores = dict[str, np.ndarray]  # score -> (S,), NaN where it is not defined


def scores_of(targets: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Scores:
    """Spearman, Pearson, R2, MAE and RMSE, each (S,), of targets (N,) and predictions (N,), both in one unit.

    Ranks are those within the resample: equal values, and the copies of a row that was drawn twice, share their mean
    rank. R2 is 1 - squared error / squared distance from the mean of the resample's own targets, which no model knows
    beforehand: the mean of the training targets is a little below 0. A constant (what varies by less than a millionth
    of its root mean square) has no correlation, and constant targets have no R2: NaN.

    Args:
        weights: (S, N), how often each row counts in each resample; None is once each, and S is 1.
    """
    targets, predictions = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"{targets.shape = } and {predictions.shape = } must be (N,), a number each a row")
    weights = np.ones((1, len(targets))) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != len(targets):
        raise ValueError(f"{weights.shape = } must be (S, N), with N = {len(targets)} rows")
    total = weights.sum(axis=1)  # (S,)
    error = predictions - targets
    true, said = centred(targets, weights), centred(predictions, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        squared, absolute = weights @ error**2 / total, weights @ np.abs(error) / total
        r2 = 1 - squared / (weighted_product(weights, true, true) / total)
    defined = varies(targets, true, weights)
    related = defined & varies(predictions, said, weights)
    ranks = [centred(ranks_of(values, weights), weights) for values in (targets, predictions)]
    return {
        "spearman": np.where(related, correlation(*ranks, weights), np.nan),
        "pearson": np.where(related, correlation(true, said, weights), np.nan),
        "r2": np.where(defined, r2, np.nan),
        "mae": absolute,
        "rmse": np.sqrt(squared),
    }


def point_scores(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
    """The scores above of the rows as they are; None for one that is not defined."""
    return {name: number_or_none(values[0]) for name, values in scores_of(targets, predictions).items()}


def ranks_of(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks (S, N) of values (N,) in resamples, in which each row stands `weights` (S, N) times.

    A group of equal values that begins after c rows and has g of them ranks c + (g + 1) / 2.
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
    """Values (N,) or (S, N) less their mean in each resample, (S, N)."""
    with np.errstate(invalid="ignore"):
        mean = (values * weights).sum(axis=1) / weights.sum(axis=1)
    return values - mean[:, None]


def weighted_product(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum (S,) of products of a and b (S, N), each as often as its row was drawn."""
    return np.einsum("sn,sn,sn->s", weights, a, b)


def varies(values: np.ndarray, rest: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Whether values (N,), whose distance from their mean is `rest` (S, N), are no constant in each resample, (S,)."""
    return weighted_product(weights, rest, rest) > ROUNDING**2 * (weights @ values**2)


def correlation(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r (S,) of what is centred (S, N)."""
    squares = weighted_product(weights, a, a) * weighted_product(weights, b, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(weighted_product(weights, a, b) / np.sqrt(squares), -1, 1)


def drawn_weights(rows: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row counts in each resample, some resamples (s, N) at a time."""
    generator = np.random.default_rng(seed)
    size = max(1, CELLS // rows)
    for start in range(0, samples, size):
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size=min(size, samples - start)).astype(np.float64)


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
) -> dict[str, Any]:
    """Everything about the test rows for `metrics.json`, with intervals and counts; every row is scored.

    Args:
        ids: of the creatives, (N,), each once.
        targets, predictions: (N,), in `unit`.
        baselines: what the model has to beat, (N,) by name; at least one.
        ablations: of the same model with less to go by, (N,) by name: "text alone", "without text".
        present: modality -> (N,) bool: what the model was given.
        unit: of the targets, for people.
    """
    targets = np.asarray(targets, np.float64)
    said = {"the model": predictions, **baselines, **ablations}
    said = {who: np.asarray(values, np.float64) for who, values in said.items()}
    check(ids, targets, said, baselines, ablations, present)
    found, residuals = contend(targets, said, samples, seed)
    rows, own = len(ids), found["the model"]
    reasons = {who: undefined(targets, values) for who, values in said.items()}

    def intervals(scores: Scores, *who: str) -> dict[str, dict[str, Any]]:
        return {name: record(values, rows, why_not(name, who, reasons)) for name, values in scores.items()}

    def beside(who: str) -> dict[str, Any]:
        gain = {name: (own[name] - found[who][name]) * (1 if MORE_IS_BETTER[name] else -1) for name in own}
        return {"scores": intervals(found[who], who), "difference": intervals(gain, "the model", who)}

    rivals, ablated = {who: beside(who) for who in baselines}, {who: beside(who) for who in ablations}
    given = np.array([np.asarray(flags, bool) for flags in present.values()]).reshape(-1, rows)
    return {
        "unit": unit,
        "rows": rows,
        "lacking": {name: int((~flags).sum()) for name, flags in zip(present, given, strict=True)},
        "lacking_all": int((~given.any(axis=0)).sum()) if len(given) else 0,
        "samples": samples,
        "seed": seed,
        "targets": described(targets),
        "predictions": described(said["the model"]),
        "scores": intervals(own, "the model"),
        "difference_is": DIFFERENCE,
        "baselines": rivals,
        "ablations": ablated,
        "modalities": judge_modalities(list(present), ablated, rows),
        "residuals": residuals,
        "verdict": decide(rivals, rows),
    }


def check(
    ids: Sequence[str],
    targets: np.ndarray,
    said: Mapping[str, np.ndarray],
    baselines: Mapping[str, np.ndarray],
    ablations: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> None:
    """Refuse what cannot be scored, by name and row."""
    if not len(ids):
        raise ValueError("there is no creative to score; give at least one row with a target")
    if len(set(ids)) < len(ids):
        twice = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise ValueError(f"ids: {twice!r} stands there twice; give each creative one row, for rows are drawn as such")
    if not baselines:
        raise ValueError("baselines: none was given; give at least the mean of the training targets")
    if both := set(baselines) & set(ablations) or {"the model"} & (set(baselines) | set(ablations)):
        raise ValueError(f"{sorted(both)}: names of baselines and ablations must differ, also from 'the model'")
    for who, values in {"targets": targets, **said}.items():
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


def contend(
    targets: np.ndarray, said: Mapping[str, np.ndarray], samples: int, seed: int
) -> tuple[dict[str, Scores], list[dict[str, Any]]]:
    """Scores (1 + S,) of all who predict, on the same resamples, the first of the rows as they are; and the residuals
    of the model by target.
    """
    parts = parts_of(targets)  # (Q, N)
    residual = said["the model"] - targets
    blocks: dict[str, list[Scores]] = {who: [] for who in said}
    means = []
    for weights in (np.ones((1, len(targets))), *drawn_weights(len(targets), samples, seed)):
        for who, values in said.items():
            blocks[who].append(scores_of(targets, values, weights))
        with np.errstate(invalid="ignore"):  # a resample may hold no row of a part
            means.append((weights @ (parts * residual).T) / (weights @ parts.T))  # (s, Q)
    scores = {
        who: {name: np.concatenate([block[name] for block in found]) for name in MORE_IS_BETTER}
        for who, found in blocks.items()
    }
    return scores, residual_records(targets, residual, parts, np.concatenate(means))


def parts_of(targets: np.ndarray) -> np.ndarray:
    """Which rows are in each fifth of the targets, lowest first, (Q, N) bool; equal targets stay together."""
    inner = np.unique(np.quantile(targets, np.arange(1, PARTS) / PARTS))
    codes = np.unique(np.searchsorted(inner, targets, side="left"), return_inverse=True)[1]
    return codes == np.arange(codes.max() + 1)[:, None]


def residual_records(
    targets: np.ndarray, residual: np.ndarray, parts: np.ndarray, means: np.ndarray
) -> list[dict[str, Any]]:
    """The mean residual (predicted less measured) of each part, with its interval; means: (1 + S, Q)."""
    return [
        {
            "from": float(targets[part].min()),
            "to": float(targets[part].max()),
            "rows": int(part.sum()),
            "residual": record(mean, int(part.sum())),
            "mae": float(np.abs(residual[part]).mean()),
        }
        for part, mean in zip(parts, means.T, strict=True)
    ]


def record(values: np.ndarray, rows: int, reason: str | None = None) -> dict[str, Any]:
    """A score (1 + S,), the first value that of the rows as they are, with its bounds, or the reason why not."""
    found = asdict(interval_of(float(values[0]), values[1:], {"creatives": rows}, rows, kind="creative"))
    return found | ({"reason": reason} if found["mean"] is None and reason else {})


def undefined(targets: np.ndarray, predictions: np.ndarray) -> dict[str, str]:
    """Why a score is not defined, by its name; empty where all are."""
    once = np.ones((1, len(targets)))
    constant = [not varies(values, centred(values, once), once)[0] for values in (targets, predictions)]
    if constant[0]:
        return dict.fromkeys(("spearman", "pearson", "r2"), "all targets are equal")
    return dict.fromkeys(("spearman", "pearson"), "all predictions are equal") if constant[1] else {}


def why_not(score: str, who: Sequence[str], reasons: Mapping[str, Mapping[str, str]]) -> str | None:
    """Why a score, or a difference of two, is not defined; whose fault it is where two are compared."""
    for one in who:
        if score in reasons[one]:
            return reasons[one][score] if len(who) == 1 else f"{one}: {reasons[one][score]}"
    return None


def described(values: np.ndarray) -> dict[str, float]:
    """Where values (N,) lie, in their unit."""
    return {"mean": float(values.mean()), "std": float(values.std()), "lowest": float(values.min()),
            "median": float(np.median(values)), "highest": float(values.max())}  # fmt: skip


def number_or_none(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def is_above(difference: Mapping[str, Any], rows: int) -> bool:
    """Whether an interval lies above 0, of rows enough to say so."""
    return rows >= FEWEST and difference["low"] is not None and difference["low"] > 0


def removal_of(modality: str, modalities: Sequence[str], ablated: Mapping[str, Any]) -> str | None:
    """The ablation that tells what the model loses without a modality; of two, that of the other one alone."""
    names = [f"without {modality}"]
    if len(modalities) == 2:
        names += [f"{other} alone" for other in modalities if other != modality]
    return next((name for name in names if name in ablated), None)


def judge_modalities(modalities: Sequence[str], ablated: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Which modalities the model loses by, by the deciding score; for each, all scores whose interval is above 0."""
    removals = {name: removal_of(name, modalities, ablated) for name in modalities}
    judged = {name: ablated[removal]["difference"] for name, removal in removals.items() if removal}
    costs = {name: [score for score in MORE_IS_BETTER if is_above(lost[score], rows)] for name, lost in judged.items()}
    matter = [name for name, scores in costs.items() if DECIDING in scores]
    matter.sort(key=lambda name: -judged[name][DECIDING]["mean"])  # what costs most comes first
    return {
        "matter": matter,
        "not_shown": [name for name in judged if name not in matter],
        "not_judged": [name for name in modalities if name not in judged],
        "by": costs,  # modality -> scores by which its removal costs
        "removals": removals,
        "score": DECIDING,
        "rule": MATTERS,
    }


def decide(rivals: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Which baselines the model beats, by the deciding score less theirs, and in a line."""
    beaten = [who for who, found in rivals.items() if is_above(found["difference"][DECIDING], rows)]
    unbeaten = [who for who in rivals if who not in beaten]
    few = f" (creatives: {rows}, fewer than {FEWEST})" if rows < FEWEST else ""
    said = f"not shown to be better than {listed(unbeaten)}{few}" if unbeaten else f"better than {listed(beaten)}"
    return {"verdict": said, "beaten": beaten, "unbeaten": unbeaten, "score": DECIDING, "rule": RULE}


def listed(names: Sequence[str]) -> str:
    """Names in words: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
