"""Intervals and tests for paired answers. The unit is the problem, however many samples it has."""

import functools
import warnings

import numpy as np
from scipy import stats

TOO_FEW = "too few pairs to test"
LEAST = 5  # of fewer problems, pairs, traces or scores no mean is drawn as a finding
TOO_FEW_TO_DRAW = f"what rests on fewer than {LEAST} problems, pairs or traces is in the tables and not drawn"
FEW_CARRY = 6  # problems; fewer that carry a difference do not show how it varies
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

    The score interval (_score_interval), whose end nearer to 0 or 1 reaches at least to the exact one-sided limit of
    the share of problems with any exception; without this, Wilson's interval can cover as rarely as .84 if all but one
    of the problems are right (Brown, Cai and DasGupta, 2001, "Interval estimation for a binomial proportion"). Neither
    end falls when one more answer is right.
    """
    low, high = _score_interval(shares, n_samples, confidence)
    return np.minimum(low, _border_reach(shares, confidence)), np.maximum(
        high, 1 - _border_reach(1 - shares, confidence)
    )


def _score_interval(shares: np.ndarray, n_samples: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval for one sample per problem; for several of as many answers as the problems' spread is worth.

    n problems are worth n m (1 - m) / V independent answers, m being the shares' mean and V their variance, which
    is estimated (hence Student's quantile t) and weighed with t^2 / 2 problems that have no spread within: the least
    that keeps the interval monotone, and where all answers agree it is Wilson's of n problems.
    Dean and Pagano, 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    """
    n_problems = shares.shape[-1]
    if n_samples == 1 or n_problems < 2:
        few = np.full(shares.shape[:-1], np.nan)
        return (few, few) if n_samples > 1 else wilson_interval(shares.sum(-1), n_problems, confidence)
    mean, quantile = shares.mean(-1), stats.t.ppf((1 + confidence) / 2, n_problems - 1)
    weight = quantile**2 / 2
    n_worth = n_problems * (n_problems * mean * (1 - mean) + weight) / (n_problems * shares.var(-1) + weight)
    return _wilson(mean, n_worth, quantile)


def _border_reach(shares: np.ndarray, confidence: float) -> np.ndarray:
    """Exact one-sided lower limit of the share of problems with any, times their mean share; inf far from the border.

    Near the border is where at most a fifth of the problems have any. Clopper and Pearson, 1934.
    """
    n_problems, n_any = shares.shape[-1], (shares > 0).sum(-1)
    limit = stats.beta.ppf(1 - confidence, np.maximum(n_any, 1), n_problems - np.maximum(n_any, 1) + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((n_any > 0) & (5 * n_any <= n_problems), limit * shares.sum(-1) / n_any, np.inf)


def difference_interval(
    first: np.ndarray, second: np.ndarray, n_first: int, n_second: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end of the mean of first minus second [..., problem], shares of n_first and n_second answers.

    The distances to the ends of the two shares' score intervals, squared and added, less what the shares' covariance
    over problems explains, itself reduced by half an answer as Newcombe does. A percentile bootstrap over problems
    covers too seldom where few problems differ (61 % of the time for 3 % of 48 problems), and has no width where none
    does; this one then covers too often. nan without problems, and for several samples of one problem.
    Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", method 10; Zou and Donner, 2008, for means of several samples.

    With several samples, the reduction is half of what one problem that differs carries, since one of many answers is
    too little where a few problems carry the whole difference: the sum of absolute differences, divided by Kish's
    effective number of the problems that share it, or a whole problem where none differs.
    Where that number is below FEW_CARRY, problems that would turn wholly may not be among those seen, so the ends reach
    at least to those of the problems' gains and losses, each a share with its own score interval (_apart).
    Kish, 1965, "Survey sampling".
    """
    n_problems, n_samples = first.shape[-1], min(n_first, n_second)
    if not n_problems:
        return _score_interval(first, n_first, confidence)
    mean_1, mean_2 = first.mean(-1), second.mean(-1)
    low_1, high_1 = _score_interval(first, n_first, confidence)
    low_2, high_2 = _score_interval(second, n_second, confidence)
    covariance = ((first - mean_1[..., None]) * (second - mean_2[..., None])).mean(-1)
    sizes = np.abs(first - second)
    total, squares = sizes.sum(-1), (sizes**2).sum(-1)
    carried = np.divide(squares, total, out=np.ones_like(total), where=total > 0)
    covariance -= np.clip(covariance, 0, np.maximum(carried, 1 / n_samples) / (2 * n_problems))
    spreads = first.std(-1) * second.std(-1)
    correlation = np.divide(covariance, spreads, out=np.zeros_like(spreads), where=spreads > 0)

    def reach(this: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(this**2 + other**2 - 2 * correlation * this * other, 0))

    difference = mean_1 - mean_2
    low, high = difference - reach(mean_1 - low_1, high_2 - mean_2), difference + reach(high_1 - mean_1, mean_2 - low_2)
    apart = _apart(first - second, n_samples, confidence)
    are_few = (max(n_first, n_second) > 1) & (total**2 < FEW_CARRY * squares)
    wider = np.minimum(low, apart[0]), np.maximum(high, apart[1])
    return np.where(are_few, wider[0], low)[()], np.where(are_few, wider[1], high)[()]


def _apart(differences: np.ndarray, n_samples: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the mean of differences [..., problem] from the score intervals of gains and losses, as if independent.

    Zou and Donner, 2008, "Construction of confidence limits about effect measures".
    """
    gains, losses = np.maximum(differences, 0), np.maximum(-differences, 0)
    gain, loss = gains.mean(-1), losses.mean(-1)
    low_gain, high_gain = _score_interval(gains, n_samples, confidence)
    low_loss, high_loss = _score_interval(losses, n_samples, confidence)
    low, high = np.hypot(gain - low_gain, high_loss - loss), np.hypot(high_gain - gain, loss - low_loss)
    return gain - loss - low, gain - loss + high


def mcnemar_p(n_with_only: np.ndarray | int, n_without_only: np.ndarray | int) -> np.ndarray:
    """Two-sided exact p of McNemar's test, elementwise, from the counts of discordant problems; 1 without any."""
    n_with_only, n_without_only = np.asarray(n_with_only), np.asarray(n_without_only)
    tail = stats.binom.cdf(np.minimum(n_with_only, n_without_only), n_with_only + n_without_only, 0.5)
    return np.minimum(2 * tail, 1.0)


def is_testable(n_pairs: int, confidence: float, n_tests: int = 1) -> bool:
    """Whether an exact paired test of n_pairs can reach significance at all, as one of n_tests (Holm)."""
    return n_tests * 2.0 ** (1 - n_pairs) <= 1 - confidence


def resampled_means(
    values: np.ndarray,
    n_resamples: int,
    seed: int,
    clusters: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Means of values [unit, ...] where defined, over clusters of units drawn with replacement: [resample, ...].

    clusters: the cluster of each unit (a problem's samples, a template's pairs); by default each unit is its own. A
    cluster weighs by its defined units, and each unit by its entry of weights [unit, ...], by default equally; nan in a
    draw without any.
    """
    _, of = np.unique(np.arange(len(values)) if clusters is None else clusters, return_inverse=True)
    if not len(of):
        return np.full((n_resamples, *np.shape(values)[1:]), np.nan)
    n_clusters = int(of.max()) + 1
    counts = _resamples(n_clusters, n_resamples, seed)[:, of]  # [resample, unit]
    flat = np.asarray(values, float).reshape(len(values), -1)
    weight = np.where(np.isnan(flat), 0, 1 if weights is None else np.reshape(weights, flat.shape))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (counts @ (weight * np.nan_to_num(flat))) / (counts @ weight)
    return means.reshape(n_resamples, *np.shape(values)[1:])


@functools.lru_cache(maxsize=2)  # the rows of a table mostly rest on the same problems
def _resamples(n_clusters: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each cluster is drawn: [resample, cluster]."""
    draws = np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), n_resamples)
    return draws.astype(float)


def percentile_ends(draws: np.ndarray, n_clusters: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the expanded percentile interval of draws [resample, ...], ignoring nan; nan if all are.

    A bootstrap of n clusters has a spread that is too small by sqrt((n - 1) / n), and normal tails. Percentiles further
    out correct both: with 20 clusters the interval covers .95 instead of .92. It has no width if all draws are equal,
    and is nan for fewer than two clusters. Hesterberg, 2015, "What teachers should know about the bootstrap", section
    5.3.
    """
    if n_clusters < 2 or not len(draws):
        undefined = np.full(draws.shape[1:], np.nan)
        return undefined, undefined
    far = np.sqrt(n_clusters / (n_clusters - 1)) * stats.t.ppf((1 + confidence) / 2, n_clusters - 1)
    tail = 100 * stats.norm.cdf(-far)
    is_defined = ~np.isnan(draws)
    percentile = np.percentile if is_defined.all() else np.nanpercentile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing, the ends are nan
        low, high = percentile(draws, [tail, 100 - tail], axis=0)
    return low, high


def bootstrap_interval(
    values: np.ndarray, n_resamples: int, confidence: float, seed: int, clusters: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """percentile_ends of the resampled_means of values [unit, ...]: low and high end of their mean, each [...]."""
    n_clusters = len(values) if clusters is None else len(np.unique(clusters))
    return percentile_ends(resampled_means(values, n_resamples, seed, clusters), n_clusters, confidence)


def mean_interval(values: np.ndarray, step: float, confidence: float) -> tuple[float, float]:
    """Low and high end of the mean of scores or differences [problem], by Student's t; nan for fewer than two.

    Two problems are added, `step` above and below the mean. As with Agresti and Coull's interval for shares, a few
    identical problems then still leave a width, and the interval covers even if few differ.
    """
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    variance = (n * np.var(values) + 2 * step**2) / (n + 1)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(variance / n)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def simultaneous_confidence(differences: np.ndarray, n_resamples: int, confidence: float, seed: int) -> float:
    """The pointwise level at which intervals of all means of differences [point, problem] hold at once.

    By the bootstrap of the largest t, with a normal weight for each problem: correlated points need a smaller
    correction than Bonferroni's. Points at which all problems are alike are left out.
    Montiel Olea and Plagborg-Møller, 2019, "Simultaneous confidence bands: theory, implementation, and an application".
    """
    deviation = differences - differences.mean(-1, keepdims=True)
    scale = np.sqrt((deviation**2).sum(-1))
    moving = scale > 0
    if not moving.any():
        return confidence
    weights = np.random.default_rng(seed).standard_normal((n_resamples, differences.shape[-1]))
    weights -= weights.mean(-1, keepdims=True)
    largest = np.abs(weights @ (deviation[moving] / scale[moving, None]).T).max(-1)
    return float(max(2 * stats.norm.cdf(np.quantile(largest, confidence)) - 1, confidence))


def sign_flip_p(differences: np.ndarray, n_resamples: int, seed: int, clusters: np.ndarray | None = None) -> float:
    """Two-sided p of the mean of differences [pair] if each cluster's sign were a fair coin.

    clusters: as in resampled_means. Exact for up to 16 clusters whose sum is not 0; otherwise from n_resamples draws,
    with the observed signs counted among them so that p is never 0 (Phipson and Smyth, 2010). nan without differences
    or with nan.
    """
    differences = np.asarray(differences, float)
    if not len(differences) or np.isnan(differences).any():
        return np.nan
    if clusters is not None:
        differences = np.bincount(np.unique(clusters, return_inverse=True)[1], differences)
    sizes = np.abs(differences[differences != 0])
    observed = abs(differences.sum()) - 1e-9 * max(sizes.sum(), 1.0)  # equal sums stay equal after rounding
    if len(sizes) <= MAX_EXACT_SIGNS:
        patterns = np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sizes) >= observed))
    distinct, counts = np.unique(sizes, return_counts=True)
    n_positive = np.random.default_rng(seed).binomial(counts, 0.5, (n_resamples, len(counts)))
    n_extreme = int(np.sum(np.abs((2 * n_positive - counts) @ distinct) >= observed))
    return (1 + n_extreme) / (1 + n_resamples)


def label_p(arms: np.ndarray, n_resamples: int, seed: int) -> float:
    """Two-sided p of the first arm's mean minus the others' in arms [problem, arm], if any arm could bear its label.

    The label is moved at random among each problem's own arms; the observed place is counted among the draws, so that p
    is never 0. A sign flip would not be valid, because one arm minus the mean of several is not symmetric about 0. nan
    without problems, with one arm, or with nan.
    """
    n_problems, n_arms = arms.shape
    if not n_problems or n_arms < 2 or np.isnan(arms).any():
        return np.nan
    # the labelled arm less the mean of the others
    differences = (arms - arms.mean(1, keepdims=True)) * n_arms / (n_arms - 1)
    places = np.random.default_rng(seed).integers(0, n_arms, (n_resamples, n_problems))
    drawn = differences[np.arange(n_problems), places].sum(1)
    rounding = 1e-9 * max(np.abs(differences).sum(), 1.0)
    n_extreme = int(np.sum(np.abs(drawn) >= abs(differences[:, 0].sum()) - rounding))
    return (1 + n_extreme) / (1 + n_resamples)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [test] of one family, adjusted to control the probability of any false alarm; nan stays nan.

    Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """t and two-sided p of the paired t-test on differences [problem]; nan for fewer than two, or if all are equal."""
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
    sum): answers valid in one condition alone may be all right or all wrong. One sample per problem. METHOD section 2.
    """
    low = common_sum - (n_valid_without - n_common)
    return low / n_problems, (common_sum + n_valid_with - n_common) / n_problems
