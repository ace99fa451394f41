"""Intervals and p values against every outcome there can be, counted."""

import itertools

import numpy as np
import pytest

from mr1jax.statistics import NUM_DRAWS, bootstrap_interval, paired_test, t_interval

SCORES = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1.0])
CLUSTERS = np.array([7, 7, 7, 3, 3, 3, 3, 3, 9, 5, 5, 5])  # four conversations of unequal size, in no order


def every_mean(scores, clusters):
    """The mean score of each of the C ** C equally likely ways to draw C clusters."""
    members = [scores[clusters == cluster] for cluster in np.unique(clusters)]
    return np.array([np.mean(np.concatenate(draw)) for draw in itertools.product(members, repeat=len(members))])


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_interval_is_that_of_every_possible_draw(level):
    """Oracle: all 4 ** 4 draws of four conversations, one by one. Each end leaves half the rest outside, to the error of sampling."""
    low, high = bootstrap_interval(SCORES, CLUSTERS, 0, level=level)
    means, tail, error = every_mean(SCORES, CLUSTERS), (1 - level) / 2, 4 * np.sqrt(0.25 / NUM_DRAWS)
    assert np.mean(means < low - 1e-9) - error <= tail <= np.mean(means <= low + 1e-9) + error
    assert np.mean(means > high + 1e-9) - error <= tail <= np.mean(means >= high - 1e-9) + error


def test_interval_widens_when_conversations_agree_within():
    """Oracle: the binomial. 400 questions, half right: apart, the mean is 0.5 +- 1.96 * 0.025; as 20 unanimous conversations, +- 0.219."""
    scores = np.repeat([0.0, 1.0] * 10, 20)
    apart = bootstrap_interval(scores, np.arange(400), 1)
    together = bootstrap_interval(scores, np.repeat(np.arange(20), 20), 1)
    assert apart == pytest.approx((0.451, 0.549), abs=0.01)
    assert together == pytest.approx((0.281, 0.719), abs=0.05)  # twentieths


def test_one_conversation_alone_draws_its_questions():
    """Oracle: the same questions as if each were a conversation."""
    assert bootstrap_interval(SCORES, np.zeros(12), 3) == bootstrap_interval(SCORES, np.arange(12), 3)


def test_interval_of_equal_scores_is_a_point():
    """Oracle: every draw has the same mean."""
    assert bootstrap_interval(np.full(12, 40.0), CLUSTERS, 0) == pytest.approx((40.0, 40.0))


def test_interval_over_seeds_is_students():
    """Oracle: arithmetic with the printed quantiles of t: 12.706 of one degree of freedom, 2.776 of four at 97.5 %, 2.132 at 95 %."""
    assert t_interval([50, 60]) == pytest.approx((55 - 5 * 12.7062, 55 + 5 * 12.7062), rel=1e-5)
    half = np.sqrt(2.5 / 5)  # of 1 to 5
    assert t_interval([3, 1, 5, 2, 4]) == pytest.approx((3 - 2.77645 * half, 3 + 2.77645 * half), rel=1e-5)
    assert t_interval([3, 1, 5, 2, 4], level=0.9) == pytest.approx((3 - 2.13185 * half, 3 + 2.13185 * half), rel=1e-5)
    assert t_interval([7, 7, 7]) == (7, 7)


def every_sign(differences):
    """The share of all 2 ** C sign patterns under which the mean is at least as large as it is."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    return np.mean(np.abs(signs @ differences) >= abs(np.sum(differences)) - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_p_value_is_that_of_all_sign_patterns(seed):
    """Oracle: 2 ** 6 patterns counted, on scores whose conversation means are taken by a loop; both directions alike."""
    rng = np.random.default_rng(seed)
    clusters = rng.permutation(np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6]))
    a, b = rng.integers(0, 2, (2, 21)) + np.array([[0.25 * seed], [0.0]])
    differences = np.array([np.mean([x - y for x, y, c in zip(a, b, clusters, strict=True) if c == each]) for each in range(6)])
    exact = every_sign(differences)
    assert paired_test(a, b, clusters, seed) == pytest.approx(exact, abs=4 * np.sqrt(0.25 / NUM_DRAWS))
    assert paired_test(b, a, clusters, seed) == paired_test(a, b, clusters, seed)


def test_conversations_count_alike_whatever_their_size():
    """Oracle: by hand. Conversations differ by 1, 1, 1 and -1/2, and 4 of 16 patterns reach 5/2; by their sums, 1, 1, 1 and -4, all do."""
    a, b = np.array([1, 1, 1] + [0] * 8), np.array([0, 0, 0] + [0, 1] * 4)
    p = paired_test(a, b, [0, 1, 2] + [3] * 8, 0)
    assert p == pytest.approx(0.25, abs=4 * np.sqrt(0.25 / NUM_DRAWS))


def test_p_value_is_never_zero():
    """Oracle: (1 + 0) / (1 + draws), for forty conversations that all agree: no drawn pattern does; and no difference at all is 1."""
    clusters = np.arange(40)
    assert paired_test(np.ones(40), np.zeros(40), clusters, 0) == 1 / (1 + NUM_DRAWS)
    assert paired_test(np.ones(40), np.ones(40), clusters, 0) == 1.0


def test_tied_patterns_count_in_spite_of_rounding():
    """Oracle: by hand. Three differences of 0.1 reach their sum with two of eight patterns, in whatever order they are added."""
    p = paired_test(np.full(3, 0.1), np.zeros(3), np.arange(3), 0)
    assert p == pytest.approx(0.25, abs=4 * np.sqrt(0.25 / NUM_DRAWS))


def test_same_seed_same_figures():
    """Oracle: the first call; another seed draws otherwise."""
    assert bootstrap_interval(SCORES, CLUSTERS, 5, level=0.9) == bootstrap_interval(SCORES, CLUSTERS, 5, level=0.9)
    b = np.zeros(12)
    assert paired_test(SCORES, b, CLUSTERS, 5) == paired_test(SCORES, b, CLUSTERS, 5)
    assert len({paired_test(SCORES, b, CLUSTERS, seed) for seed in range(5)}) > 1
