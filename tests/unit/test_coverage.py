"""The intervals keep their promise: how often they contain the truth, over 2,000 simulated studies."""

import numpy as np
import pytest
from scipy import stats

from r2a.statistics import difference_interval, share_interval

N_STUDIES = 2000
NOMINAL = pytest.approx(0.95, abs=0.015)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250928)


def coverage(ends: tuple[np.ndarray, np.ndarray], truth: float) -> float:
    return float(np.mean((ends[0] <= truth) & (truth <= ends[1])))


def one_sample(rng, n_problems, only_with, only_without, both):
    """Right answers with and without reasoning [study, problem]; the problems fall into four classes."""
    shares = [only_with, only_without, both, 1 - only_with - only_without - both]
    kind = rng.choice(4, p=shares, size=(N_STUDIES, n_problems))
    return ((kind == 0) | (kind == 2)).astype(float), ((kind == 1) | (kind == 2)).astype(float)


def many_samples(rng, n_problems, n_samples, with_reasoning, without):
    """Shares of right answers [study, problem]; chances are beta over problems, correlated between conditions."""
    common = rng.normal(size=(N_STUDIES, n_problems, 1))
    chances = stats.norm.cdf(0.6**0.5 * common + 0.4**0.5 * rng.normal(size=(N_STUDIES, n_problems, 2)))
    shapes = zip(np.moveaxis(chances, -1, 0), (with_reasoning, without), strict=True)
    return [rng.binomial(n_samples, stats.beta.ppf(chance, *shape)) / n_samples for chance, shape in shapes]


@pytest.mark.parametrize("n_problems", [176, 500])
@pytest.mark.parametrize("share", [0.1, 0.44, 0.8, 0.9])
def test_wilsons_interval_covers(rng, n_problems, share):
    answers = (rng.random((N_STUDIES, n_problems)) < share).astype(float)
    assert coverage(share_interval(answers, 1, 0.95), share) == NOMINAL


@pytest.mark.parametrize("n_problems", [176, 500])
@pytest.mark.parametrize("shares", [(0.15, 0.03, 0.75), (0.5, 0.02, 0.4), (0.05, 0.05, 0.45), (0.1, 0.05, 0.5)])
def test_the_interval_of_a_paired_difference_covers(rng, n_problems, shares):
    ends = difference_interval(*one_sample(rng, n_problems, *shares), 1, 1, 0.95)
    assert coverage(ends, shares[0] - shares[1]) == NOMINAL


@pytest.mark.parametrize("n_problems", [16, 48, 120])
@pytest.mark.parametrize("shares", [(0.02, 0.01, 0.95), (0.02, 0.01, 0.5), (0.05, 0.05, 0.45), (0.5, 0.02, 0.4)])
def test_with_few_problems_the_paired_interval_covers_no_less_than_it_says(rng, n_problems, shares):
    ends = difference_interval(*one_sample(rng, n_problems, *shares), 1, 1, 0.95)
    assert coverage(ends, shares[0] - shares[1]) > 0.935


# shapes of the beta distribution of problems' chances, with and without reasoning
SHAPES = [((4, 1), (1, 1)), ((0.9, 0.1), (0.5, 0.5)), ((8, 1), (8, 1)), ((0.3, 0.03), (0.3, 0.03))]


@pytest.mark.slow
@pytest.mark.parametrize(("n_problems", "n_samples"), [(120, 4), (500, 2)])
@pytest.mark.parametrize("shapes", SHAPES)
def test_intervals_cover_with_correlated_samples_of_a_problem(rng, n_problems, n_samples, shapes):
    with_reasoning, without = many_samples(rng, n_problems, n_samples, *shapes)
    means = [a / (a + b) for a, b in shapes]
    # near 0 and 1 intervals reach the exact one-sided limit, so they may cover more than they say
    assert 0.935 <= coverage(share_interval(with_reasoning, n_samples, 0.95), means[0]) <= 0.985
    ends = difference_interval(with_reasoning, without, n_samples, n_samples, 0.95)
    assert 0.935 <= coverage(ends, means[0] - means[1]) <= 0.985


def test_taking_samples_of_a_problem_for_independent_would_not_cover(rng):
    (shares, _), n_samples = many_samples(rng, 120, 4, *SHAPES[1]), 4
    as_if_independent = np.repeat(shares, n_samples, axis=1).round()
    assert coverage(share_interval(as_if_independent, 1, 0.95), 0.9) < 0.85


def test_the_interval_of_greedy_against_sampled_covers(rng):
    sampled, greedy = many_samples(rng, 176, 3, (4, 1), (2, 1))
    greedy = (rng.random(greedy.shape) < greedy).astype(float)
    assert coverage(difference_interval(sampled, greedy, 3, 1, 0.95), 4 / 5 - 2 / 3) == NOMINAL
