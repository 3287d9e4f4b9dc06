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
    with np.errstate(invalid="ignore"):
        return _wilson(n_successes / total, total, stats.norm.ppf((1 + confidence) / 2))


def _wilson(share: np.ndarray, total: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def share_interval(shares: np.ndarray, n_samples: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end of the mean of shares [..., problem], each of n_samples answers; nan without problems.

    Wilson's interval; for several samples of as many independent answers as the spread between problems is worth (at
    most all of them, and the problems where all agree), with Student's quantile, as that number is estimated. It has
    a width where all problems agree, and a bootstrap over problems has none. nan for several samples of one problem.
    Dean and Pagano, 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    """
    n_problems = shares.shape[-1]
    if n_samples == 1 or not n_problems:
        return wilson_interval(shares.sum(-1), n_problems, confidence)
    mean, spread = shares.mean(-1), shares.var(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        n_worth = np.minimum(n_problems * mean * (1 - mean) / spread, n_problems * n_samples)
    n_worth = np.where((mean == 0) | (mean == 1), n_problems, n_worth)
    return _wilson(mean, n_worth, stats.t.ppf((1 + confidence) / 2, n_problems - 1))


def difference_interval(
    first: np.ndarray, second: np.ndarray, n_first: int, n_second: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end of the mean of first minus second [..., problem], shares of n_first and n_second answers.

    The distances to the ends of the two share_intervals, squared and added, less what the shares' covariance over
    problems explains, itself a little reduced as Newcombe does. A percentile bootstrap over problems covers too
    seldom where few problems differ (61 % of the time for 3 % of 48 problems), and has no width where none does;
    this one then covers too often. nan as in share_interval.
    Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10; Zou and Donner, 2008, for means of several samples.
    """
    n_problems = first.shape[-1]
    if not n_problems:
        return share_interval(first, n_first, confidence)
    mean_1, mean_2 = first.mean(-1), second.mean(-1)
    low_1, high_1 = share_interval(first, n_first, confidence)
    low_2, high_2 = share_interval(second, n_second, confidence)
    covariance = ((first - mean_1[..., None]) * (second - mean_2[..., None])).mean(-1)
    covariance -= np.clip(covariance, 0, 1 / (2 * n_problems * min(n_first, n_second)))
    spreads = first.std(-1) * second.std(-1)
    correlation = np.divide(covariance, spreads, out=np.zeros_like(spreads), where=spreads > 0)

    def reach(this: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(this**2 + other**2 - 2 * correlation * this * other, 0))

    difference = mean_1 - mean_2
    return difference - reach(mean_1 - low_1, high_2 - mean_2), difference + reach(high_1 - mean_1, mean_2 - low_2)


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
