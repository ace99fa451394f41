"""No configuration that cannot run is ever built, and what is refused is refused by name and value."""

import dataclasses

import pytest

from mr1jax import config
from mr1jax.config import (
    AgentConfig,
    BankConfig,
    Config,
    LoraConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    ProcessConfig,
    SamplingConfig,
    replace,
)

NAN = float("nan")
COUNT = (0, -1)  # what no number of things can be
RATE = (-0.1, 1.1, NAN)

OUT_OF_RANGE = {
    ModelConfig: {
        "vocab_size": COUNT,
        "d_model": COUNT,
        "num_layers": COUNT,
        "num_heads": (*COUNT, 3),  # 2 key-value heads do not divide 3
        "num_kv_heads": (*COUNT, 3),
        "head_dim": (*COUNT, 7),
        "d_ff": COUNT,
        "rope_theta": (0.0, -1.0, NAN),
        "norm_eps": (0.0, -1e-6, NAN),
        "rope_factor": (0.0, -8.0, NAN),
        "rope_low_freq_factor": (0.0, -1.0, NAN, 4.0),  # not below the high one
        "rope_high_freq_factor": (0.0, -1.0, NAN, 1.0),
        "rope_original_length": COUNT,
        "dtype": ("float16",),
    },
    LoraConfig: {
        "rank": (-1, 100_001, NAN),
        "alpha": (0.0, -1.0, NAN),
        "targets": ((), ("query", "query"), ("q_proj",)),
        "base_dtype": ("float16",),
    },
    BankConfig: {"num_slots": COUNT, "slot_width": COUNT, "num_terms": COUNT, "when_full": ("grow",)},
    AgentConfig: {"num_retrieved": COUNT, "prompt_length": COUNT, "response_length": COUNT, "retrieval": ("semantic",)},
    SamplingConfig: {"temperature": (-0.1, 101.0, NAN), "top_k": (-1, 1_000_001), "top_p": (0.0, 1.1, NAN)},
    LossConfig: {
        "algorithm": ("reinforce",),
        "clip_eps": (0.0, -0.2, NAN),
        "clip_eps_high": (0.0, -0.2, NAN),
        "kl_coef": (-0.1, 2e6, NAN),
        "entropy_coef": (-0.1, 2e6, NAN),
        "value_coef": (-0.1, 2e6, NAN),
        "value_clip_eps": (0.0, -0.2, NAN),
        "gamma": RATE,
        "gae_lambda": RATE,
        "epochs": COUNT,
        "num_minibatches": COUNT,
        "num_microbatches": COUNT,
    },
    OptimizerConfig: {
        "learning_rate": (0.0, -1e-4, NAN),
        "warmup_steps": (-1, 10**10),
        "max_grad_norm": (0.0, -1.0, NAN),
        "weight_decay": (-0.1, 1e10, NAN),
        "b1": (*RATE, 1.0),  # Adam divides by 1 - b1
        "b2": (*RATE, 1.0),
        "spike_sigmas": (-1.0, 1e7, NAN),
        "max_skipped": COUNT,
    },
    ProcessConfig: {
        "num_processes": (*COUNT, 2),  # without a coordinator
        "process_id": (-1, 1),
        "timeout": COUNT,
    },
    MeshConfig: {"data": COUNT, "fsdp": COUNT, "tensor": COUNT},
    Config: {
        "agent": ("oracle",),
        "data": ("babi",),
        "conversations": COUNT,
        "steps": COUNT,
        "save_every": COUNT,
        "validation_tasks": (-1, 10**10),
        "prompts_per_step": COUNT,
        "prompts_kept": (-1, 17),  # of the 16 that a step draws
        "group_size": COUNT,
        "rollout_microbatches": COUNT,
        "questions_per_state": COUNT,
        "reward": ("bleu",),
        "banks_by": ("nobody",),
        "horizon": (-1, 10**10),
        "lead": (-1, 10**10),
        "max_facts": (-1, 10**10),
        "seed": (-1, 2**31),
    },
}
NEEDED = {AgentConfig: {"num_retrieved": 3, "prompt_length": 64, "response_length": 8}}  # fields without a default
CASES = [(cls, name, value) for cls, fields in OUT_OF_RANGE.items() for name, values in fields.items() for value in values]


def is_free(field):
    """Tells whether a field has no wrong value of its type: a switch, a folder, or a configuration that checks itself."""
    return field.type in (bool, str, *OUT_OF_RANGE)


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_out_of_range_is_refused_by_name_and_value(cls, name, value):
    """Oracle: the table above."""
    with pytest.raises(ValueError, match=name) as refusal:
        cls(**NEEDED.get(cls, {}) | {name: value})
    sentence = str(refusal.value)
    assert sentence.startswith(f"{cls.__name__}.{name} is {value!r}") or f"{name} {value!r}" in sentence
    assert "\n" not in sentence


def test_table_names_every_field():
    """Oracle: the dataclasses themselves."""
    found = {cls for cls in vars(config).values() if dataclasses.is_dataclass(cls) and isinstance(cls, type)}
    assert found == set(OUT_OF_RANGE)
    for cls, table in OUT_OF_RANGE.items():
        assert set(table) == {field.name for field in dataclasses.fields(cls) if not is_free(field)}


@pytest.mark.parametrize("cls", OUT_OF_RANGE, ids=lambda cls: cls.__name__)
def test_defaults_construct_hash_and_stay(cls):
    """Oracle: equality, hash and a refused assignment of two configurations made alike: jit and experiments rely on all three."""
    one, two = cls(**NEEDED.get(cls, {})), cls(**NEEDED.get(cls, {}))
    assert one == two
    assert hash(one) == hash(two)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, dataclasses.fields(cls)[0].name, None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mesh": MeshConfig(data=3)}, "Config.prompts_per_step is 16, which the 3 devices .* use 15"),
        ({"mesh": MeshConfig(data=4, fsdp=5), "prompts_per_step": 16}, "Config.prompts_per_step is 16, which the 20 devices .* use 20"),
        (
            {"loss": LossConfig(num_minibatches=3)},
            "Config.prompts_per_step is 16, which loss.num_minibatches 3 times loss.num_microbatches 1 times 1 devices does not divide",
        ),
        (
            {"loss": LossConfig(num_minibatches=2, num_microbatches=4), "mesh": MeshConfig(fsdp=4)},
            "which loss.num_minibatches 2 times loss.num_microbatches 4 times 4 devices does not divide; use 32",
        ),
        ({"rollout_microbatches": 5}, "prompts_per_step is 16, which rollout_microbatches 5 times 1 devices does not divide; use 15"),
        ({"answerer": AgentConfig(3, 64, 8, retrieval="hybrid")}, "answerer.retrieval is 'hybrid', which needs .* Config.encoder"),
        ({"manager": AgentConfig(3, 64, 8, retrieval="dense"), "encoder": "x"}, "manager.retrieval is 'dense'; .* use 'lexical'"),
        ({"group_size": 1}, "Config.group_size is 1; grpo compares"),
        ({"group_size": 1, "loss": LossConfig(algorithm="dr_grpo")}, "Config.group_size is 1; dr_grpo compares"),
        ({"prompts_kept": 8, "loss": LossConfig(algorithm="ppo")}, "Config.prompts_kept is 8; ppo .* use 0"),
        ({"prompts_kept": 10, "loss": LossConfig(num_minibatches=4)}, "Config.prompts_kept is 10, which loss.num_minibatches 4 .*; use 8"),
        ({"prompts_kept": 10, "mesh": MeshConfig(fsdp=4)}, "Config.prompts_kept is 10, which .* 4 devices does not divide; use 8"),
        ({"sampling": SamplingConfig(temperature=0.0)}, "Config.sampling has temperature 0.0"),
        ({"sampling": SamplingConfig(top_k=5)}, "top_k 0"),
        ({"sampling": SamplingConfig(top_p=0.9)}, "top_p 1"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, sentence):
    """Oracle: each sentence by hand, with both values in it."""
    with pytest.raises(ValueError, match=sentence):
        Config(**changes)


@pytest.mark.parametrize("address", ["here", ":1234", "here:", "here:port"])
def test_an_address_is_a_host_and_a_port(address):
    """Oracle: what is neither is refused by its name; what is, or auto, is not."""
    with pytest.raises(ValueError, match=f"ProcessConfig.coordinator is '{address}'; give host:port of process 0, or auto"):
        ProcessConfig(coordinator=address)
    assert ProcessConfig(coordinator="[::1]:1234", num_processes=2, process_id=1).timeout == ProcessConfig(coordinator="auto").timeout


def test_replace_checks_again():
    """Oracle: what the constructor refuses, and a group of one, which PPO may have."""
    with pytest.raises(ValueError, match="Config.steps is 0"):
        replace(Config(), steps=0)
    assert replace(Config(), group_size=1, loss=LossConfig(algorithm="ppo")).group_size == 1


def test_trained_agent_and_device_count_follow_the_fields():
    """Oracle: by hand, 2 x 3 x 4 = 24."""
    assert Config(agent="manager").trained == Config().manager
    assert Config(agent="answerer").trained == Config().answerer
    assert MeshConfig(data=2, fsdp=3, tensor=4).num_devices == 24
    assert (Config().prompts_trained, Config(prompts_kept=12).prompts_trained) == (16, 12)
