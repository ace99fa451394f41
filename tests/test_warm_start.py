"""The loss of the warm start, against arithmetic on the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.config import ModelConfig
from mr1jax.lesson_arrays import LessonBatch
from mr1jax.model import transformer
from mr1jax.warm_start import imitation_loss

CONFIG = ModelConfig(vocab_size=11, d_model=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, d_ff=16)
BATCH = LessonBatch(  # two answers and a decision, one token padded in the first and two in the last
    prompt=np.array([[3, 4, 0], [5, 6, 7], [8, 9, 0]], np.int32),
    prompt_length=np.array([2, 3, 2], np.int32),
    response=np.array([[4, 5, 1, 0], [2, 3, 4, 1], [6, 1, 0, 0]], np.int32),
    response_length=np.array([3, 4, 2], np.int32),
    odds=np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0.5, 0.2, 0.0, 0.3]], np.float32),
)
OPENINGS = (6, 7, 8, 9)  # tokens that decisions begin with


def test_the_first_token_of_a_decision_counts_more_and_is_compared_with_the_odds():
    """Oracle: log-softmax in numpy, token by token, in a loop over what is not padding; by hand: the entropy of the odds."""
    params = transformer.init_params(CONFIG, jax.random.key(0))
    loss, metrics = jax.jit(imitation_loss, static_argnums=(2, 3))(params, BATCH, CONFIG, OPENINGS, 5.0)
    hidden = transformer.response_hidden(CONFIG, params, jnp.asarray(BATCH.prompt), BATCH.prompt_length, BATCH.response[:, None])
    logits_PRV = np.asarray(transformer.logits(CONFIG, params, hidden)[:, 0], np.float64)
    log_prob_PRV = logits_PRV - np.log(np.exp(logits_PRV).sum(axis=-1, keepdims=True))
    told = [(p, r, -log_prob_PRV[p, r, BATCH.response[p, r]]) for p in range(3) for r in range(BATCH.response_length[p])]
    drawn = [nats for _, _, nats in told]
    choice = -np.dot(BATCH.odds[2], log_prob_PRV[2, 0, list(OPENINGS)])
    told = [(p, r, choice if (p, r) == (2, 0) else nats) for p, r, nats in told]
    weight = [5.0 if (p, r) == (2, 0) else 1.0 for p, r, _ in told]
    assert float(loss) == pytest.approx(np.average([nats for _, _, nats in told], weights=weight), rel=1e-5)
    assert float(metrics["answerer"]) == pytest.approx(np.mean(drawn[:-2]), rel=1e-5)
    assert float(metrics["manager"]) == pytest.approx(np.mean(drawn[-2:]), rel=1e-5)
    assert float(metrics["choice"]) == pytest.approx(choice - 1.029653, rel=1e-5)  # 0.5 ln 2 + 0.2 ln 5 + 0.3 ln(10 / 3)
