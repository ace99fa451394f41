"""Checkpoints come back bit for bit, on any layout, and every kind of damage to any file is noticed before anything is read."""

import errno
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mr1jax import checkpoint, sharding
from mr1jax.config import MeshConfig
from mr1jax.structs import TrainState

TX = optax.adamw(1e-2)
LOGICAL_AXES = {"kernel": ("embed", "mlp"), "bias": ("mlp",)}
EXTRA = {"cursor": {"epoch": 2, "index": 7}, "note": "déjà vu"}


def make_state(seed: int) -> TrainState:
    """A state with all that is awkward to store: NaN, infinity, -0, bfloat16, a bool, an empty subtree and a typed key."""
    rng = np.random.default_rng(seed)
    params = {"kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32), "bias": jnp.array([jnp.nan, jnp.inf, -0.0, 1e-42])}
    frozen = {"kernel": jnp.asarray(rng.normal(size=(8, 4)), jnp.bfloat16), "bias": jnp.array([True, False, False, True])}
    return TrainState({"answerer": params, "manager": frozen}, None, TX.init(params), jnp.int32(seed), jax.random.key(seed, impl="rbg"))


def save(directory, step, state, extra, max_to_keep=3):
    with checkpoint.Saver(directory, max_to_keep) as saver:
        saver.save(step, state, extra)


def raw(state):
    """The bytes, dtype and shape of every leaf, keys by their data: what "bit for bit" compares."""
    plain = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)
    return [(np.asarray(x).tobytes(), x.dtype, x.shape) for x in jax.tree.leaves(plain)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the steps 10 and 20, written once; tests that damage it take a copy."""
    directory = tmp_path_factory.mktemp("checkpoints")
    for step in (10, 20):
        save(directory, step, make_state(step), EXTRA | {"step": step})
    return directory


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def files_of(directory, step):
    return sorted(path for path in (directory / f"step_{step:08d}").rglob("*") if path.is_file())


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def delete(path):
    path.unlink()


def test_round_trip_is_bit_for_bit(saved):
    """Oracle: the bytes of what was saved. The newest step comes back, with its structure, its key and its extra."""
    state, extra, step = checkpoint.restore(saved, make_state(0))
    assert step == 20
    assert extra == EXTRA | {"step": 20}
    assert raw(state) == raw(make_state(20))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(20))
    assert jax.random.bits(state.key) == jax.random.bits(make_state(20).key)


def test_restores_into_shapes_alone(saved):
    """Oracle: the bytes of what was saved. `eval_shape` suffices: no second copy of the model has to exist."""
    state, _, _ = checkpoint.restore(saved, jax.eval_shape(lambda: make_state(0)))
    assert raw(state) == raw(make_state(20))


@pytest.mark.parametrize(
    ("before", "after"), [(MeshConfig(fsdp=4, tensor=2), MeshConfig(data=2, fsdp=2)), (MeshConfig(), MeshConfig(fsdp=8))]
)
def test_restores_onto_another_layout(tmp_path, before, after):
    """Oracle: the bytes of what was saved, and the layout that was asked for."""
    state = make_state(3)
    layouts = [sharding.state_sharding(state, LOGICAL_AXES, sharding.make_mesh(config)) for config in (before, after)]
    save(tmp_path, 3, jax.device_put(state, layouts[0]), {})
    restored, _, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: state), layouts[1])
    assert raw(restored) == raw(state)
    assert jax.tree.all(jax.tree.map(lambda x, layout: x.sharding == layout, restored, layouts[1]))


@pytest.mark.parametrize("damage", [flip_bit, truncate, delete])
def test_damage_to_any_file_is_noticed(copied, damage):
    """Oracle: the damage done, to one file at a time, every file under the manifest. An empty file can only be deleted."""
    files = [path for path in files_of(copied, 20) if path.name != "manifest.json"]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        if not content and damage is not delete:
            continue
        damage(path)
        problems = checkpoint.verify(copied, 20)
        assert [path.name in problem for problem in problems] == [True], path
        path.write_bytes(content)
        assert checkpoint.verify(copied, 20) == []


@pytest.mark.parametrize("damage", [flip_bit, truncate, delete])
@pytest.mark.parametrize("target", ["largest", "manifest.json", "record.json"])
def test_a_damaged_step_falls_back_to_the_one_before(copied, damage, target, caplog):
    """Oracle: the bytes of step 10, and a warning that names step 20."""
    files = files_of(copied, 20)
    path = max(files, key=lambda p: p.stat().st_size) if target == "largest" else next(p for p in files if p.name == target)
    damage(path)
    with caplog.at_level(logging.WARNING):
        state, extra, step = checkpoint.restore(copied, make_state(0))
    assert step == extra["step"] == 10
    assert raw(state) == raw(make_state(10))
    assert "passing over the checkpoint of step 20" in caplog.text


def test_a_bit_flipped_in_the_manifest_is_noticed(copied):
    """Oracle: the damage done, to every 11th byte of the manifest; it then vouches for something that is not there, or is no JSON."""
    path = copied / "step_00000020" / "manifest.json"
    content = path.read_bytes()
    for index in range(0, len(content), 11):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1 << index % 8]) + content[index + 1 :])
        assert checkpoint.verify(copied, 20) != [], index


def test_an_unfinished_save_is_passed_over_and_replaced(copied):
    """Oracle: the bytes of step 10 after a kill between Orbax's commit and the manifest; then those of the step saved anew."""
    shutil.copytree(copied / "step_00000020" / "state", copied / "step_00000030" / "state")
    assert checkpoint.latest_verified_step(copied) == 20
    save(copied, 30, make_state(30), {})
    assert raw(checkpoint.restore(copied, make_state(0))[0]) == raw(make_state(30))


def test_a_sound_step_is_never_written_over(copied):
    """Oracle: the modification times and bytes of every file before the attempt."""
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(copied, 20)]
    with pytest.raises(ValueError, match=r"step 20 is already saved in .*; give another directory"):
        save(copied, 20, make_state(1), {})
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in files_of(copied, 20)] == before


@pytest.mark.parametrize("damage", [None, flip_bit, truncate, delete], ids=["none", "flipped", "truncated", "deleted"])
def test_a_report_reads_every_file(copied, damage, capsys):
    """Oracle: the sizes of the files, and which of them was damaged; a list reads none of them and still knows an unfinished save."""
    sizes = [sum(path.stat().st_size for path in files_of(copied, step)) for step in (10, 20)]
    (spoilt,) = [path for path in files_of(copied, 10) if path.name == "record.json"]
    if damage is not None:
        damage(spoilt)
    assert checkpoint.report_checkpoints(copied, read_files=True) == (damage is None)
    *steps, speed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in steps] == ["10", "20"]
    assert [line.endswith("  sound") for line in steps] == [damage is None, True]
    assert ("record.json" in steps[0]) == (damage is not None)
    assert f"{sizes[1] / 1e6:.2f} MB" in steps[1]
    assert speed.startswith("read ")
    assert speed.endswith(" MB/s")
    assert checkpoint.report_checkpoints(copied, read_files=False)
    (copied / "step_00000020" / "manifest.json").unlink()
    assert not checkpoint.report_checkpoints(copied, read_files=False)
    assert "did not finish" in capsys.readouterr().out.splitlines()[-1]


def test_keeps_the_newest(tmp_path):
    """Oracle: a list. Of 1, 2, 3 the last two are kept; a later damaged step neither counts nor pushes out the one just saved."""
    leaf = {"x": jnp.ones(2)}
    for step in (1, 2, 3):
        save(tmp_path, step, leaf, {}, max_to_keep=2)
    assert checkpoint.saved_steps(tmp_path) == [2, 3]
    delete(tmp_path / "step_00000003" / "manifest.json")
    (tmp_path / "step_00000003").rename(tmp_path / "step_00000009")
    save(tmp_path, 4, leaf, {}, max_to_keep=1)
    assert checkpoint.saved_steps(tmp_path) == [4, 9]
    assert checkpoint.latest_verified_step(tmp_path) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.replace(step=jnp.zeros(3, jnp.int32)), r"step is int32\[\] there and int32\[3\] here; resume with"),
        (lambda s: s.replace(step=jnp.float32(0)), r"step is int32\[\] there and float32\[\] here"),
        (lambda s: s.replace(key=jax.random.key(0)), r"key is key<rbg>\[\] there and key<fry>\[\] here"),
        (lambda s: s.replace(reference={"kernel": jnp.ones(2)}), r"reference/kernel is absent there and float32\[2\] here"),
        (lambda s: s.replace(opt_state=()), r"opt_state/0/count is int32\[\] there and absent here and 4 more leaves differ"),
    ],
    ids=["shape", "dtype", "kind of key", "new leaf", "missing leaves"],
)
def test_another_model_is_refused(saved, change, sentence):
    """Oracle: the sentence a user needs; a checkpoint of another model is no damage, so nothing older is tried."""
    with pytest.raises(ValueError, match=sentence):
        checkpoint.restore(saved, change(make_state(0)))


def test_nothing_to_restore(copied, tmp_path):
    """Oracle: the sentences for a missing directory, an empty one, and one where every step is damaged."""
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        assert checkpoint.latest_verified_step(tmp_path / name) is None
        with pytest.raises(ValueError, match=f"{name} holds no checkpoint; train first"):
            checkpoint.restore(tmp_path / name, make_state(0))
    for step in (10, 20):
        delete(copied / f"step_{step:08d}" / "manifest.json")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged \(steps \[10, 20\]\); train again"):
        checkpoint.restore(copied, make_state(0))


def test_keeping_none_is_refused(tmp_path):
    """Oracle: the sentence; nothing is written."""
    with pytest.raises(ValueError, match="max_to_keep is 0; keep 1"):
        save(tmp_path, 1, make_state(0), {}, max_to_keep=0)
    assert list(tmp_path.iterdir()) == []


def test_a_save_goes_on_while_the_state_is_donated(tmp_path):
    """Oracle: the bytes of the state as it was at the time of each save, though the next step took its arrays over at once."""
    kernel = jnp.arange(2_000_000, dtype=jnp.float32)
    move = jax.jit(lambda x: x * 3 + 1, donate_argnums=0)
    wanted = []
    with checkpoint.Saver(tmp_path, max_to_keep=5) as saver:
        for step in range(1, 5):
            wanted.append(np.array(kernel))
            saver.save(step, {"kernel": kernel}, {})
            kernel = move(kernel)
    for step, want in enumerate(wanted, 1):
        state, _, _ = checkpoint.restore(tmp_path, {"kernel": jnp.zeros(2_000_000)}, step=step)
        np.testing.assert_array_equal(state["kernel"], want)


def test_the_best_step_is_kept_beside_the_newest(tmp_path):
    """Oracle: the scores by hand. Of equal ones the first is best; a step without a score, or with a damaged record, has none."""
    scores = {1: 0.0, 2: 0.5, 3: None, 4: 0.5, 5: 0.25, 6: 0.125}
    with checkpoint.Saver(tmp_path, max_to_keep=2) as saver:
        for step, score in scores.items():
            saver.save(step, {"x": jnp.full(2, step)}, {checkpoint.VALIDATION: score})
    assert checkpoint.saved_steps(tmp_path) == [2, 5, 6]
    assert checkpoint.best_step(tmp_path) == 2
    state, extra, step = checkpoint.restore(tmp_path, {"x": jnp.zeros(2, jnp.int32)}, step=2)
    assert (step, extra[checkpoint.VALIDATION], state["x"].tolist()) == (2, 0.5, [2, 2])
    truncate(tmp_path / "step_00000002/record.json")
    assert checkpoint.best_step(tmp_path) == 5
    with pytest.raises(ValueError, match=r"step 2 in .* is damaged: record.json was changed"):
        checkpoint.restore(tmp_path, {"x": jnp.zeros(2, jnp.int32)}, step=2)


def test_a_file_that_was_added_is_noticed(copied):
    """Oracle: the planted file, beside the arrays and among them."""
    for place in ("state/stray", "state/d/stray"):
        path = copied / "step_00000020" / place
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        assert checkpoint.verify(copied, 20) == [f"{place} was added"]
        path.unlink()


def test_a_full_disk_is_said_and_loses_nothing(copied, monkeypatch):
    """Oracle: the sentence, and every file that was there before the save for which there was no room."""
    before = {path: path.read_bytes() for step in (10, 20) for path in files_of(copied, step)}

    def no_room(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_manifest", no_room)
    with pytest.raises(ValueError, match=r"a step could not be saved in .*No space left on device.*make room there and start again"):
        save(copied, 30, make_state(30), {}, max_to_keep=1)
    assert {path: path.read_bytes() for step in (10, 20) for path in files_of(copied, step)} == before
    assert checkpoint.latest_verified_step(copied) == 20
