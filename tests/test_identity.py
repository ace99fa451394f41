"""By what a run and its weights are known again, and what makes it another."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax import identity, sharding
from mr1jax.config import Config, MeshConfig

TASKS = {"bank": np.arange(6, dtype=np.int32).reshape(2, 3), "asked": np.ones((2, 2), bool)}


def test_weights_are_known_again():
    """Oracle: by hand. The same for numbers in float32, for what bfloat16 leaves of them, and on one device or eight; another for any
    other number, name or shape."""
    tree = {"a": jnp.arange(-20, 20, dtype=jnp.float32).reshape(8, 5) / 7, "b": {"c": jnp.ones(3)}}
    known = identity.fingerprint(tree)
    assert len(known) == 16
    assert identity.fingerprint(jax.tree.map(lambda x: np.asarray(x.astype(jnp.bfloat16)), tree)) == known
    layout = sharding.batch_sharding(sharding.make_mesh(MeshConfig(data=8)))
    assert identity.fingerprint(tree | {"a": jax.device_put(tree["a"], layout)}) == known
    others = [tree | {"a": tree["a"].at[3, 2].add(1)}, tree | {"a": tree["a"].reshape(5, 8)}, {"a": tree["a"], "b": {"d": jnp.ones(3)}}]
    assert len({known, *map(identity.fingerprint, others)}) == 4


def test_a_run_resumes_only_as_itself():
    """Oracle: which fields were changed. A longer run on other devices is the same run; another loss or seed is not, and is named."""
    config = Config()
    saved = json.loads(json.dumps(identity.describe_run(config, TASKS)))
    assert set(saved["versions"]) >= {"jax", "flax", "optax", "orbax-checkpoint"}
    same = identity.describe_run(dataclasses.replace(config, steps=999, save_every=7, mesh=MeshConfig(data=2)), TASKS)
    identity.require_same_run(saved, same)
    assert same["config_hash"] == saved["config_hash"]
    other = dataclasses.replace(config, seed=5, loss=dataclasses.replace(config.loss, clip_eps=0.3), steps=999)
    with pytest.raises(ValueError, match=r"another configuration: loss.clip_eps was 0.2 and is 0.3, seed was 0 and is 5; resume with"):
        identity.require_same_run(saved, identity.describe_run(other, TASKS))
    assert identity.describe_run(other, TASKS)["config_hash"] != saved["config_hash"]


def test_other_data_and_another_base_are_refused():
    """Oracle: what was changed: one number, one type, one shape of the tasks; one number of the base, or that there is one."""
    config, base = Config(), {"x": jnp.arange(4.0)}
    saved = identity.describe_run(config, TASKS, base)
    for name, array in (("bank", TASKS["bank"] + 1), ("bank", TASKS["bank"].astype(np.int64)), ("asked", TASKS["asked"].reshape(4, 1))):
        with pytest.raises(ValueError, match=f"data hash {saved['data']}, and this one's is"):
            identity.require_same_run(saved, identity.describe_run(config, TASKS | {name: array}, base))
    for other in ({"x": base["x"].at[2].add(1)}, None):
        with pytest.raises(ValueError, match=f"base hash {saved['base']}, and this one's is"):
            identity.require_same_run(saved, identity.describe_run(config, TASKS, other))


def test_other_versions_are_warned_of(caplog):
    """Oracle: the package whose version was changed; the run may go on."""
    saved = identity.describe_run(Config(), TASKS)
    with caplog.at_level(logging.WARNING):
        identity.require_same_run(saved, identity.describe_run(Config(), TASKS))
        assert caplog.text == ""
        older = saved | {"versions": saved["versions"] | {"jax": "0.1"}}
        identity.require_same_run(older, saved)
    assert "saved with jax 0.1;" in caplog.text
