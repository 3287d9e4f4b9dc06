"""Intervals and tests for paired answers. The unit is the problem, however many samples it has."""

import numpy as np
from scipy import stats

MAX_EXACT_SIGNS = 16  # up to 2^16 sign patterns are gone through one by one


def wilson_interval(
    n_successes: np.ndarray | int, n_total: np.ndarray | int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end of Wilson's score interval of a share, elementwise; nan where n_total is 0.

    Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    total = np.asarray(n_total, float)
    z = stats.norm.ppf((1 + confidence) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = n_successes / total
        centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def mcnemar_p(n_with_only: np.ndarray | int, n_without_only: np.ndarray | int) -> np.ndarray:
    """Two-sided exact p of McNemar's test, elementwise, from the counts of discordant problems; 1 without any."""
    n_with_only, n_without_only = np.asarray(n_with_only), np.asarray(n_without_only)
    tail = stats.binom.cdf(np.minimum(n_with_only, n_without_only), n_with_only + n_without_only, 0.5)
    return np.minimum(2 * tail, 1.0)


def bootstrap_interval(values: np.ndarray, n_resamples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of values [problem], problems drawn with replacement; nan without any.

    Drawn as counts of the distinct values, which is the same and needs no [resample, problem] array. Where all
    values are the same, so are the draws: the interval then has no width.
    """
    if not len(values):
        return np.nan, np.nan
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), n_resamples)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(draws @ distinct / len(values), [tail, 100 - tail])
    return float(low), float(high)


def sign_flip_p(differences: np.ndarray, n_resamples: int, seed: int) -> float:
    """Two-sided p of the mean of differences [problem], were each one's sign a fair coin; nan without any.

    Exact for up to 16 differences that are not 0, else from n_resamples draws, the observed signs counted among
    them, so that p is never 0 (Phipson and Smyth, 2010).
    """
    if not len(differences):
        return np.nan
    sizes = np.abs(differences[differences != 0])
    observed = abs(differences.sum()) - 1e-9 * max(sizes.sum(), 1.0)  # equal sums stay equal after rounding
    if len(sizes) <= MAX_EXACT_SIGNS:
        patterns = np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sizes) >= observed))
    distinct, counts = np.unique(sizes, return_counts=True)
    n_positive = np.random.default_rng(seed).binomial(counts, 0.5, (n_resamples, len(counts)))
    n_extreme = int(np.sum(np.abs((2 * n_positive - counts) @ distinct) >= observed))
    return (1 + n_extreme) / (1 + n_resamples)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [test] of one family, adjusted so that the chance of any false alarm is held; nan stays nan.

    Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """t and two-sided p of the paired t-test on differences [problem]; nan for fewer than two, or all the same."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return np.nan, np.nan
    result = stats.ttest_1samp(differences, 0.0)
    return float(result.statistic), float(result.pvalue)


def excluded_bounds(n_problems: int, n_common: int, common_sum: float) -> tuple[float, float]:
    """Least and greatest mean difference over all problems, given only those valid in both conditions.

    common_sum: their differences' sum. Each other problem's difference may be anything from -1 to 1.
    METHOD section 2; Manski, 1990.
    """
    n_excluded = n_problems - n_common
    return (common_sum - n_excluded) / n_problems, (common_sum + n_excluded) / n_problems


def invalid_wrong_bounds(
    n_problems: int, n_valid_with: int, n_valid_without: int, n_common: int, common_sum: float
) -> tuple[float, float]:
    """Least and greatest mean difference over all problems where an invalid answer counts wrong.

    Given, of the valid answers, only those to problems valid in both conditions (common_sum: their differences'
    sum): answers valid in one condition alone may be all right or all wrong. One sample a problem. METHOD section 2.
    """
    low = common_sum - (n_valid_without - n_common)
    return low / n_problems, (common_sum + n_valid_with - n_common) / n_problems
