"""The statistics have the promised coverage, type I error and power, simulated with a known truth.

Numbers come from seeded draws; bounds leave room for the draws' own error (about .4 % with 4,000 draws). Power and
width are tested too, because a test that never rejects, or an interval that is never short, would pass everything else.
"""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from r2a.evaluation.attention_quality import within_problems
from r2a.evaluation.hand_off import hand_off_layer
from r2a.heads.registry import score_columns, stacked
from r2a.statistics import (
    bootstrap_interval,
    difference_interval,
    is_testable,
    label_p,
    mean_interval,
    resampled_means,
    share_interval,
    sign_flip_p,
    simultaneous_confidence,
    wilson_interval,
)

pytestmark = pytest.mark.slow

LEVEL = 0.95
COVERED = 0.935  # of a nominal .95
FALSE = 0.06  # of a nominal .05


def samples(rng, share, agreement, n_problems, n_samples, n_draws):
    """Shares right [draw, problem]; the samples of a problem are correlated, from 0 (not at all) to 1 (all equal)."""
    if agreement == 0:
        chances = np.full((n_draws, n_problems), share)
    else:
        scale = (1 - agreement) / agreement
        chances = rng.beta(share * scale, (1 - share) * scale, (n_draws, n_problems))
    return rng.binomial(n_samples, chances) / n_samples


def covered(ends, truth):
    low, high = ends
    return np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high))


# ---- shares


@pytest.mark.parametrize("n_problems", [20, 50, 200])
@pytest.mark.parametrize("n_samples", [1, 2, 4, 8])
def test_intervals_of_shares_cover_at_any_number_of_samples_and_near_one(n_problems, n_samples):
    rng = np.random.default_rng(n_problems + n_samples)
    agreements = (0, 0.3, 0.6, 0.9) if n_samples > 1 else (0,)
    for share, agreement in product((0.5, 0.8, 0.9, 0.95, 0.98, 0.99), agreements):
        shares = samples(rng, share, agreement, n_problems, n_samples, 4000)
        ends = share_interval(shares, n_samples, LEVEL)
        # with one sample, the discreteness of 0 and 1 leaves .934 in the worst of these
        assert covered(ends, share) >= COVERED - 0.006 * (n_samples == 1), (share, agreement)


@pytest.mark.parametrize(("n_problems", "most"), [(20, 1.45), (50, 1.3), (200, 1.15)])
def test_intervals_of_shares_are_not_much_wider_than_those_that_know_the_spread(n_problems, most):
    """Compared with the normal interval with the true variance, for 4 samples with a correlation of a half."""
    rng = np.random.default_rng(1)
    for share in (0.5, 0.8, 0.9):
        low, high = share_interval(samples(rng, share, 0.5, n_problems, 4, 2000), 4, LEVEL)
        variance = share * (1 - share) * (1 + 3 * 0.5) / 4 / n_problems
        assert np.mean(high - low) < most * 2 * 1.96 * np.sqrt(variance), share


def test_one_more_right_answer_never_lowers_an_end():
    rng = np.random.default_rng(2)
    for n_problems, n_samples, share, agreement in product(
        (5, 20, 50), (1, 2, 4), (0.03, 0.3, 0.7, 0.97), (0.02, 0.5, 0.9)
    ):
        right = (samples(rng, share, agreement, n_problems, n_samples, 400) * n_samples).round().astype(int)
        more, place = right.copy(), rng.integers(0, n_problems, len(right))
        more[np.arange(len(right)), place] += right[np.arange(len(right)), place] < n_samples
        for before, after in zip(
            *(share_interval(r / n_samples, n_samples, LEVEL) for r in (right, more)), strict=True
        ):
            assert (after - before).min() > -1e-12


def test_all_right_reaches_further_than_all_but_one():
    # the case that the first form of this interval failed: .820 at 80 of 80 and .926 at 79 of 80
    lows = [share_interval(np.r_[np.ones(19), right / 4], 4, LEVEL)[0] for right in (3, 4)]
    assert lows[0] < lows[1] == pytest.approx(20 / (20 + stats.t.ppf(0.975, 19) ** 2))


def test_away_from_the_borders_one_sample_a_problem_gives_wilsons_interval():
    shares = np.repeat([1.0, 0.0], [14, 6])
    assert share_interval(shares, 1, LEVEL) == pytest.approx(wilson_interval(14, 20, LEVEL))


def paired_samples(rng, share, gain, agreement, n_problems, n_samples, n_draws):
    """Shares right [draw, problem] with and without reasoning, which share each problem's difficulty."""
    scale = (1 - agreement) / agreement
    chances = rng.beta(share * scale, (1 - share) * scale, (n_draws, n_problems))
    more = chances + gain * (1 - chances) / (1 - share)
    return rng.binomial(n_samples, more) / n_samples, rng.binomial(n_samples, chances) / n_samples


@pytest.mark.parametrize("n_problems", [20, 50, 200])
@pytest.mark.parametrize("n_samples", [1, 2, 4, 8])
def test_intervals_of_paired_differences_cover(n_problems, n_samples):
    rng = np.random.default_rng(3)
    for share, gain, agreement in product((0.6, 0.9, 0.97), (0, 0.02), (0.3, 0.8)):
        first, second = paired_samples(rng, share, gain, agreement, n_problems, n_samples, 3000)
        ends = difference_interval(first, second, n_samples, n_samples, LEVEL)
        assert covered(ends, gain) >= COVERED, (share, gain, agreement)
        if gain == 0:
            assert np.mean((ends[0] > 0) | (ends[1] < 0)) <= FALSE, (share, agreement)


@pytest.mark.parametrize(("n_problems", "most", "power"), [(20, 1.5, 0.45), (50, 1.25, 0.95), (200, 1.1, 0.99)])
def test_intervals_of_paired_differences_are_not_wide_and_find_a_gain(n_problems, most, power):
    """Compared with the normal interval with the true variance, for a gain of 20 points on .6 with 4 samples."""
    first, second = paired_samples(np.random.default_rng(16), 0.6, 0.2, 0.3, n_problems, 4, 3000)
    low, high = difference_interval(first, second, 4, 4, LEVEL)
    assert np.mean(high - low) < most * 2 * 1.96 * (first - second).mean(-1).std()
    assert np.mean(low > 0) > power


@pytest.mark.parametrize("n_problems", [20, 50, 200])
@pytest.mark.parametrize("n_samples", [2, 4, 8])
def test_a_difference_that_few_problems_carry_is_covered(n_samples, n_problems):
    """1.5 to 7.5 % of problems that are nearly always right or always wrong turn from one to the other."""
    rng = np.random.default_rng(17)
    for concentration, turning in ((0.01, 0.03), (0.01, 0.06), (0.05, 0.06), (0.01, 0.15)):
        chances = rng.beta(concentration, concentration, (4000, n_problems))
        turned = np.where(rng.random(chances.shape) < turning, 1, chances)
        first, second = rng.binomial(n_samples, turned) / n_samples, rng.binomial(n_samples, chances) / n_samples
        ends = difference_interval(first, second, n_samples, n_samples, LEVEL)
        assert covered(ends, turning / 2) >= COVERED, (concentration, turning)
        # no wider than of one sample a problem
        alone = difference_interval((first > 0.5).astype(float), (second > 0.5).astype(float), 1, 1, LEVEL)
        assert np.mean(ends[1] - ends[0]) < 1.5 * np.mean(alone[1] - alone[0])


# ---- means over clusters


def of_problems(rng, n_problems, n_samples, n_draws, within=0.5):
    """Values [draw, sample] with mean 0, part of which a problem's samples share, and their problems [sample]."""
    common = rng.normal(0, 1, (n_draws, n_problems, 1))
    values = common + within * rng.normal(0, 1, (n_draws, n_problems, n_samples))
    return values.reshape(n_draws, -1), np.repeat(np.arange(n_problems), n_samples)


@pytest.mark.parametrize("n_samples", [1, 2, 4, 8])
@pytest.mark.parametrize("n_problems", [20, 50, 200])
def test_bootstrap_intervals_cover_where_problems_have_several_samples(n_problems, n_samples):
    values, problems = of_problems(np.random.default_rng(4), n_problems, n_samples, 2500)
    low, high = bootstrap_interval(values.T, 1000, LEVEL, 5, problems)  # all draws at once, as heads are
    assert covered((low, high), 0) >= COVERED
    width = 2 * 1.96 * np.sqrt((1 + 0.25 / n_samples) / n_problems)
    assert np.mean(high - low) < 1.15 * width


def test_taking_samples_for_problems_would_not_cover():
    values, _ = of_problems(np.random.default_rng(4), 20, 8, 1000)
    assert covered(bootstrap_interval(values.T, 1000, LEVEL, 5), 0) < 0.7


def test_scores_of_heads_are_resampled_by_problem():
    values, problems = of_problems(np.random.default_rng(6), 30, 4, 200)
    columns = score_columns("x", stacked(values.T[:, None]), 500, LEVEL, 7, problems)
    low, high = bootstrap_interval(values.T, 500, LEVEL, 7, problems)
    np.testing.assert_allclose([columns["x_low"], columns["x_high"]], [low, high])


def test_a_cluster_is_drawn_whole_and_weighs_by_its_defined_units():
    values = np.array([1.0, 3.0, np.nan, 10.0])
    means = resampled_means(values, 200, 1, np.array(["a", "a", "a", "b"]))
    assert set(means.round(6)) == {2.0, 10.0, round((1 + 3 + 10) / 3, 6)}


@pytest.mark.parametrize("n_problems", [20, 50, 200])
@pytest.mark.parametrize(("chance", "size"), [(1, 0), (0.05, 1), (0.05, 3), (0.15, 3), (0.1, -2)])
def test_intervals_of_judges_differences_cover_though_few_differ(n_problems, chance, size):
    rng = np.random.default_rng(8)
    if size:
        differences, truth = size * rng.binomial(1, chance, (4000, n_problems)).astype(float), size * chance
    else:
        differences, truth = rng.normal(0.3, 1.4, (4000, n_problems)).round(), 0.3
    ends = np.array([mean_interval(row, 3, LEVEL) for row in differences]).T
    assert covered(ends, truth) >= COVERED
    assert (
        np.mean(ends[1] - ends[0]) < 2 * 1.96 * np.sqrt((differences.std() ** 2 + 18 / n_problems) / n_problems) * 1.1
    )


def test_equal_scores_still_have_a_width():
    low, high = mean_interval(np.zeros(21), 3, LEVEL)
    assert low < -0.2 and high > 0.2


# ---- hand-off

LAYERS = np.arange(28)
FALL, RISE = np.clip(1 - LAYERS / 6, 0, 1), 0.9 * (LAYERS >= 19)  # faded long before the last token takes over
CURVES = {
    "fading": (FALL, RISE),
    "fading late": (0.6 * np.clip(1 - LAYERS / 12, 0, 1), RISE),
    "crossing": (np.clip((23.5 - LAYERS) / 10, 0, 1), np.clip((LAYERS - 13.5) / 10, 0, 1)),
}


def curves_of_pairs(rng, answer, final, n_pairs, noise=0.3):
    strength = np.exp(rng.normal(0, 0.3, (n_pairs, 1)))
    return (curve * strength + noise * rng.normal(size=(n_pairs, len(LAYERS))) for curve in (answer, final))


@pytest.mark.parametrize("curves", CURVES)
def test_the_interval_of_the_hand_off_holds_the_planted_layer(curves):
    rng, held = np.random.default_rng(9), []
    for n_pairs in (8, 20, 50):
        found = [hand_off_layer(*curves_of_pairs(rng, *CURVES[curves], n_pairs), 300, LEVEL, k) for k in range(100)]
        held += [one.low <= 19 <= one.high for one in found if not np.isnan(one.layer)]
        assert np.nanmean([one.high - one.low for one in found]) < 4
    assert len(held) > 250 and np.mean(held) >= 0.93


@pytest.mark.parametrize(
    ("answer", "final"),
    [(0.03 * (LAYERS < 3), 0.9 * (LAYERS >= 1)), (FALL, 0.05 * (LAYERS >= 19)), (FALL, RISE * (LAYERS < 27))],
    ids=["the answer's curve peaks at .03", "the last token's curve peaks at .05", "crossed back in the last layer"],
)
def test_curves_without_a_lasting_crossing_above_a_tenth_have_no_hand_off(answer, final):
    rng = np.random.default_rng(10)
    found = [hand_off_layer(*curves_of_pairs(rng, answer, final, 40, 0.1), 300, LEVEL, k) for k in range(50)]
    assert np.mean([np.isnan(one.layer) for one in found]) >= 0.98


def test_a_noise_floor_above_the_curves_leaves_no_hand_off():
    answer, final = (np.tile(curve, (10, 1)) for curve in CURVES["crossing"])
    assert hand_off_layer(answer, final, 50, LEVEL, 1).layer == 19
    assert np.isnan(hand_off_layer(answer, final, 50, LEVEL, 1, noise_floor=2.0).layer)


def test_pairs_of_one_template_are_one_cluster_of_the_hand_off():
    """Two templates with ten similar pairs each: an interval over pairs would be as narrow as one over twenty."""
    early, late = ((np.clip((c + 5 - LAYERS) / 10, 0, 1), np.clip((LAYERS - c + 5) / 10, 0, 1)) for c in (8.5, 18.5))
    answer, final = (np.repeat(np.stack(both), 10, axis=0) for both in zip(early, late, strict=True))
    by_pair = hand_off_layer(answer, final, 300, 0.8, 1)
    by_template = hand_off_layer(answer, final, 300, 0.8, 1, np.repeat(["e", "l"], 10))
    assert (by_template.low, by_template.high) == (9, 19)
    assert by_template.low < by_pair.low and by_pair.high < by_template.high


# ---- bands


def nested_differences(rng, n_problems, n_budgets, shift=0.0):
    """Differences [budget, problem] in right answers within a budget, for two conditions with similar lengths."""
    budgets = np.quantile(rng.lognormal(5, 1, 4000), np.linspace(0.02, 1, n_budgets))
    is_right = rng.random((2, n_problems)) < 0.8
    lengths = rng.lognormal(5, 1, (2, n_problems)) * np.exp([[0], [shift]])
    within = (is_right & (lengths <= budgets[:, None, None])).astype(float)
    return within[:, 0], within[:, 1]


@pytest.mark.parametrize("n_problems", [20, 50, 200])
def test_the_band_over_budgets_excludes_nothing_falsely_in_95_of_100_studies(n_problems):
    rng, pointwise, at_once = np.random.default_rng(11), [], []
    for k in range(400):
        first, second = nested_differences(rng, n_problems, 40)
        level = simultaneous_confidence(first - second, 500, LEVEL, k)
        for found, confidence in ((pointwise, LEVEL), (at_once, level)):
            low, high = difference_interval(first, second, 1, 1, confidence)
            found.append(((low > 0) | (high < 0)).any())
    assert np.mean(at_once) <= FALSE
    assert np.mean(pointwise) > 2 * np.mean(at_once)


def test_the_band_still_finds_budgets_that_do_differ():
    rng, found = np.random.default_rng(12), []
    for k in range(100):
        first, second = nested_differences(rng, 100, 40, shift=1.0)
        level = simultaneous_confidence(first - second, 500, LEVEL, k)
        assert LEVEL <= level <= 1 - 0.05 / 40  # between one budget's and Bonferroni's
        found.append((difference_interval(first, second, 1, 1, level)[0] > 0).any())
    assert np.mean(found) > 0.9


# ---- tests


@pytest.mark.parametrize(("n_problems", "power"), [(20, 0.6), (50, 0.9), (200, 0.99)])
@pytest.mark.parametrize("n_draws", [2, 5])
def test_moving_the_label_among_arms_errs_in_five_of_100_and_finds_what_differs(n_draws, n_problems, power):
    rng = np.random.default_rng(13)
    for loss, expected in ((0.0, (0, FALSE)), (0.3, (power, 1))):
        found = []
        for k in range(1000):
            chance = rng.beta(4, 1, (n_problems, 1)) - np.r_[loss, np.zeros(n_draws)]
            arms = (rng.random((n_problems, 1 + n_draws)) < chance).astype(float)
            found.append(label_p(arms, 200, k) <= 0.05)
        assert expected[0] <= np.mean(found) <= expected[1]


def test_label_p_counts_all_ways_to_place_the_label():
    # of the 3^3 ways, only one puts the label on the three zeros, and none is as far on the other side
    arms = np.array([[0.0, 1, 1]] * 3)
    assert label_p(arms, 50_000, 1) == pytest.approx(1 / 27, abs=0.004)


def right_against_wrong_p(values, is_right, problems, seed):
    """p over the problems that have both; from 99 permutations, since the test is exact for any number of them."""
    has_both = np.isin(problems, np.intersect1d(problems[is_right], problems[~is_right]))
    settings = {"n_resamples": 99, "confidence": LEVEL, "seed": seed}
    return within_problems(values[has_both], is_right[has_both], problems[has_both], settings)[1]


@pytest.mark.parametrize("n_problems", [20, 50, 200])
@pytest.mark.parametrize("n_samples", [2, 4, 8])
def test_right_against_wrong_within_problems_errs_in_five_of_100(n_samples, n_problems):
    """Hard problems have more wrong answers and higher scores; within a problem the two are unrelated."""
    rng, found, between = np.random.default_rng(14), [], []
    problems = np.repeat(np.arange(n_problems), n_samples)
    for k in range(2000 if n_problems < 200 else 1000):
        difficulty = rng.normal(size=n_problems)[problems]
        values = difficulty + rng.normal(size=len(problems))
        is_right = rng.random(len(problems)) < 1 / (1 + np.exp(difficulty))
        found.append(right_against_wrong_p(values, is_right, problems, k) <= 0.05)
        between.append(stats.mannwhitneyu(values[is_right], values[~is_right]).pvalue <= 0.05)
    assert np.mean(found) <= FALSE
    assert np.mean(between) > 0.3  # which the same test over all samples would call a finding


@pytest.mark.parametrize(("n_problems", "power"), [(20, 0.5), (50, 0.9), (200, 0.99)])
def test_right_against_wrong_within_problems_finds_a_shift(n_problems, power):
    rng, found = np.random.default_rng(15), []
    problems = np.repeat(np.arange(n_problems), 4)
    for k in range(200):
        is_right = rng.random(len(problems)) < 0.5
        values = rng.normal(size=n_problems)[problems] * 3 + rng.normal(size=len(problems)) + 0.8 * is_right
        found.append(right_against_wrong_p(values, is_right, problems, k) <= 0.05)
    assert np.mean(found) > power


def test_signs_of_clusters_flip_together():
    differences = np.array([1.0, 1, 1, 1, 1, 1, -1])
    assert sign_flip_p(differences, 100, 1, np.array(list("aaabbbc"))) == 2 * 2 / 8  # of sums 3, 3 and 1
    assert sign_flip_p(differences, 100, 1) == pytest.approx(2 * stats.binom.cdf(1, 7, 0.5))


@pytest.mark.parametrize("differences", [[1.0, np.nan, 1.0], []])
def test_sign_flips_of_an_undefined_or_of_no_difference_have_no_p(differences):
    assert np.isnan(sign_flip_p(np.array(differences), 100, 1))


def test_five_pairs_cannot_reach_significance_and_six_can_unless_there_are_many_tests():
    assert not is_testable(5, LEVEL) and is_testable(6, LEVEL)
    assert not is_testable(8, LEVEL, n_tests=40) and is_testable(11, LEVEL, n_tests=40)
