"""How sure a score is, when the questions come in conversations.

Questions about one conversation share its bank and its luck, so they are no independent draws: whole conversations are what is drawn
again, and what changes sides. A cluster is the number of a conversation. Host only, numpy; the same seed gives the same figures.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

NUM_DRAWS = 10_000


def bootstrap_interval(
    scores: ArrayLike, clusters: ArrayLike, seed: int, *, level: float = 0.95, num_draws: int = NUM_DRAWS
) -> tuple[float, float]:
    """Computes the percentile interval of the mean score, by drawing the C clusters again with replacement.

        mean* = sum over c of w_c s_c / sum over c of w_c n_c,    w ~ Multinomial(C; 1/C, ..., 1/C)

    s_c is the sum of the scores of cluster c and n_c their number: every question counts the same, as in the mean itself.
    Where there is one cluster alone, its questions are drawn instead, and the interval is about this conversation only.
    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8; few clusters make it too narrow.

    scores, clusters: float[Q], int[Q], of at least one question.
    """
    scores_Q, clusters_Q = np.asarray(scores, np.float64), np.asarray(clusters)
    if np.unique(clusters_Q).size == 1:
        clusters_Q = np.arange(scores_Q.size)
    sum_C, size_C = _totals(scores_Q, clusters_Q)
    num_clusters = size_C.size
    weight_NC = np.random.default_rng(seed).multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_draws)
    mean_N = (weight_NC @ sum_C) / (weight_NC @ size_C)
    low, high = np.quantile(mean_N, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def interval_of_seeds(scores: ArrayLike, clusters: ArrayLike, seed: int, *, num_draws: int = NUM_DRAWS) -> tuple[float, float]:
    """Computes the 95 % percentile interval of the mean score over n seeds, drawing the seeds and the C clusters again, each on its own.

        mean* = sum over i, c of v_i w_c s_ic / sum over c of w_c n_c,    v ~ Multinomial(n; 1/n) / n,    w as in `bootstrap_interval`

    s_ic is the sum of the scores of cluster c under seed i. So it holds what other questions and what other runs would have changed; of
    few seeds the second is underestimated, by a factor (n - 1) / n of its variance. Source: as `bootstrap_interval`, section 3.8.

    scores: float[n, Q], of the same Q questions for every seed; clusters: int[Q].
    """
    scores_nQ = np.asarray(scores, np.float64)
    totals = [_totals(of_seed, np.asarray(clusters)) for of_seed in scores_nQ]
    sum_nC, size_C = np.stack([total for total, _ in totals]), totals[0][1]
    rng, (n, num_clusters) = np.random.default_rng(seed), sum_nC.shape
    seed_Dn = rng.multinomial(n, np.full(n, 1 / n), size=num_draws) / n
    weight_DC = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_draws)
    mean_D = np.einsum("dn,nc,dc->d", seed_Dn, sum_nC, weight_DC, optimize=True) / (weight_DC @ size_C)
    low, high = np.quantile(mean_D, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def t_interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """Computes Student's interval of the mean of n independent values, such as one of each seed:

        mean +- t_{n-1} s / sqrt(n),    s^2 = sum of squared deviations from the mean / (n - 1)

    Exact where the values are normal, and wide where they are few: t is 12.7 for two of them, 4.3 for three, 2.8 for five.

    values: float[n], n at least 2.
    """
    values_N = np.asarray(values, np.float64)
    half = stdtrit(values_N.size - 1, (1 + level) / 2) * np.std(values_N, ddof=1) / np.sqrt(values_N.size)
    return float(np.mean(values_N) - half), float(np.mean(values_N) + half)


def paired_test(scores_a: ArrayLike, scores_b: ArrayLike, clusters: ArrayLike, seed: int, *, num_draws: int = NUM_DRAWS) -> float:
    """Tests whether a and b score alike on the same questions: the two-sided p value of a sign-flip permutation over clusters.

        d_c = mean over the questions of c of (a - b),    T(e) = |mean over c of e_c d_c|,    e_c = -1 or +1
        p = (1 + number of drawn e with T(e) >= T(1, ..., 1)) / (1 + num_draws)

    If a and b are alike, then a conversation's difference might as well have had the other sign. With C conversations that all agree
    p is about 2 ** (1 - C), and cannot be less. Source: Phipson and Smyth (arXiv 1603.05766) for the 1 that is added.

    scores_a, scores_b: float[Q]; clusters: int[Q].
    """
    difference_Q = np.asarray(scores_a, np.float64) - np.asarray(scores_b, np.float64)
    sum_C, size_C = _totals(difference_Q, np.asarray(clusters))
    mean_C = sum_C / size_C
    sign_NC = np.random.default_rng(seed).choice([-1.0, 1.0], size=(num_draws, mean_C.size))
    observed = abs(np.mean(mean_C))
    # A draw of the observed signs, or of their opposites, sums to the same but for rounding, and has to count.
    as_large = np.abs(sign_NC @ mean_C) / mean_C.size >= observed - 1e-12
    return float((1 + np.sum(as_large)) / (1 + num_draws))


def _totals(scores_Q: np.ndarray, clusters_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums the scores of each cluster and counts them."""
    _, cluster_Q = np.unique(clusters_Q, return_inverse=True)
    return np.bincount(cluster_Q, weights=scores_Q), np.bincount(cluster_Q)
