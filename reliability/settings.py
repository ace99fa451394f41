"""Every field of every configuration, given what it cannot be: a `ValueError` that names field and value, before anything compiles.

What is legal stands here as a table of its own. A value in the table's range must build, or contradict another field and be refused by
name; any other must be refused in one sentence.
"""

import dataclasses
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
)
from reliability.outcome import Outcome


@dataclass(frozen=True)
class Numbers:
    """Numbers from low to high, whole ones or not; without low itself, and without high, where they are open."""

    low: float
    high: float
    whole: bool = True
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: Any) -> bool:
        if type(value) is not int and (self.whole or type(value) is not float):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


@dataclass(frozen=True)
class Kind:
    """Everything of one type."""

    type: type

    def __contains__(self, value: Any) -> bool:
        return type(value) is self.type


COUNT, INDEX = Numbers(1, 2**31 - 1), Numbers(0, 2**31 - 1)
POSITIVE, WEIGHT = Numbers(1e-30, 1e30, whole=False, open_low=True, open_high=True), Numbers(0, 1e6, whole=False)
SHARE = Numbers(0, 1, whole=False)
SWITCH, TEXT = Kind(bool), Kind(str)
DTYPE = ("float32", "bfloat16")
ADDRESS = ("", "auto")  # of those that are tried: with a host and a port there would be more
NUM_ADAPTED = 7  # matrices of a layer

LEGAL: dict[type, dict[str, Any]] = {
    ModelConfig: {
        **dict.fromkeys("vocab_size d_model num_layers num_heads num_kv_heads head_dim d_ff rope_original_length".split(), COUNT),
        **dict.fromkeys("rope_theta norm_eps rope_factor rope_low_freq_factor rope_high_freq_factor".split(), POSITIVE),
        **dict.fromkeys("qkv_bias qk_norm tie_embeddings remat".split(), SWITCH),
        "dtype": DTYPE,
    },
    LoraConfig: {"rank": Numbers(0, 100_000), "alpha": POSITIVE, "targets": (("query",), ("up", "down")), "base_dtype": DTYPE},
    BankConfig: {"num_slots": COUNT, "slot_width": COUNT, "num_terms": COUNT, "when_full": ("evict_oldest", "reject")},
    AgentConfig: {
        **dict.fromkeys("num_retrieved prompt_length response_length".split(), COUNT),
        "per_speaker": SWITCH,
        "retrieval": ("lexical", "dense", "hybrid"),
    },
    SamplingConfig: {
        "temperature": Numbers(0, 100, whole=False),
        "top_k": Numbers(0, 10**6),
        "top_p": Numbers(0, 1, whole=False, open_low=True),
    },
    LossConfig: {
        "algorithm": ("grpo", "ppo", "dr_grpo", "dapo", "gspo"),
        **dict.fromkeys("clip_eps clip_eps_high value_clip_eps".split(), POSITIVE),
        **dict.fromkeys("kl_coef entropy_coef value_coef".split(), WEIGHT),
        **dict.fromkeys("gamma gae_lambda".split(), SHARE),
        **dict.fromkeys("epochs num_minibatches num_microbatches".split(), COUNT),
    },
    OptimizerConfig: {
        **dict.fromkeys("learning_rate max_grad_norm".split(), POSITIVE),
        "spike_sigmas": Numbers(0, 10**6, whole=False),
        "max_skipped": COUNT,
        "warmup_steps": Numbers(0, 10**9),
        "weight_decay": Numbers(0, 10**9, whole=False),
        **dict.fromkeys("b1 b2".split(), Numbers(0, 1, whole=False, open_high=True)),
    },
    MeshConfig: {**dict.fromkeys("data fsdp tensor".split(), COUNT), "gather_for_rollout": SWITCH},
    ProcessConfig: {"coordinator": ADDRESS, "num_processes": COUNT, "process_id": INDEX, "timeout": COUNT},
    Config: {
        "agent": ("manager", "answerer"),
        "data": ("memdial", "locomo"),
        **dict.fromkeys("conversations steps prompts_per_step group_size rollout_microbatches questions_per_state".split(), COUNT),
        "banks_by": ("append_only", "manager"),
        "reward": ("em", "f1", "judge_like"),
        "distill": SWITCH,
        "save_every": COUNT,
        "prompts_kept": INDEX,
        **dict.fromkeys("validation_tasks horizon lead max_facts".split(), Numbers(0, 10**9)),
        "seed": INDEX,
        **dict.fromkeys("backbone encoder manager_from answerer_from".split(), TEXT),
        "model": Kind(ModelConfig),
        "lora": Kind(LoraConfig),
        "bank": Kind(BankConfig),
        **dict.fromkeys("manager answerer".split(), Kind(AgentConfig)),
        "sampling": Kind(SamplingConfig),
        "loss": Kind(LossConfig),
        "optimizer": Kind(OptimizerConfig),
        "mesh": Kind(MeshConfig),
    },
}
NEEDED: dict[type, dict[str, Any]] = {AgentConfig: {"num_retrieved": 3, "prompt_length": 64, "response_length": 8}}

TRIED: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 64, 100_001, 2**31 - 1, 2**31, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1.0, -0.5, 2.5, 1e-320, 1e-40, 1e6, 1e38, 1e300, math.nan, math.inf, -math.inf),
    *(
        True,
        False,
        None,
        "",
        "3",
        "2.5",
        "nan",
        "none",
        "float16",
        "float32",
        "auto",
        "host",
        ":1",
        "a:0",
        "a:70000",
        "a:\u0663",
        "query\n",
    ),
    *("reject", "dense", "lexical", "ppo", "manager", "locomo", "bfloat16", "f1"),
    *(
        (),
        ("query",),
        ("up", "down"),
        ("query", "query"),
        ("q_proj",),
        (1,),
        ["query"],
        {"query"},
        "query",
        b"query",
        {},
        1j,
        int,
        range(3),
    ),
    *(ModelConfig(), LoraConfig(), BankConfig(), AgentConfig(3, 64, 8), SamplingConfig(), LossConfig(), OptimizerConfig(), MeshConfig()),
)

COMMANDS = (
    ("--steps", "0"),
    ("--steps", "2.5"),
    ("--seed", "99999999999"),
    ("--optimizer.learning-rate", "nan"),
    ("--optimizer.b2", "1.0"),
    ("--loss.clip-eps", "inf"),
    ("--model.norm-eps", "-1"),
    ("--bank.num-slots", "-3"),
    ("--mesh.data", "0"),
    ("--agent", "oracle"),
)


def try_settings(count: int, seed: int = 0) -> Outcome:
    """Gives each field of each configuration all of `TRIED` and `count` random numbers; a point is one value of one field."""
    rng, outcome = random.Random(seed), Outcome()
    found = {cls for cls in vars(config).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    outcome.check(found == LEGAL.keys(), f"the table has {sorted(cls.__name__ for cls in found ^ LEGAL.keys())} too many or too few")
    for cls, legal in LEGAL.items():
        names = {each.name for each in dataclasses.fields(cls)}
        outcome.check(names == legal.keys(), f"the table of {cls.__name__} has {sorted(names ^ legal.keys())} too many or too few")
        for name in sorted(names & legal.keys()):
            results = [_complaint(cls, name, value, value in legal[name]) for value in (*TRIED, *_numbers(rng, count))]
            for complaint, _ in results:
                outcome.check(not complaint, complaint)
            outcome.check(any(built for _, built in results), f"{cls.__name__}.{name} refuses all that is legal")
    return outcome


def try_command_line(commands: Sequence[tuple[str, str]] = COMMANDS) -> Outcome:
    """Starts `mr1jax train grpo_answer` with each pair of option and value: exit status 2, one sentence, and no program compiled.

    JAX is told to report what it compiles on standard error, where nothing but the sentence may stand.
    """
    outcome = Outcome()
    environment = os.environ | {"JAX_LOG_COMPILES": "1", "JAX_PLATFORMS": "cpu"}
    for option, value in commands:
        run = "import sys; from mr1jax.cli import main; sys.argv[0] = 'mr1jax'; main()"
        command = [sys.executable, "-c", run, "train", "grpo_answer", option, value]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        one_sentence = done.stderr.startswith("mr1jax: ") and done.stderr.count("\n") == 1 and value in done.stderr
        outcome.check(done.returncode == 2 and one_sentence, f"{option} {value}: exit status {done.returncode}, {done.stderr!r}")
    return outcome


def _numbers(rng: random.Random, count: int) -> Iterator[int | float]:
    """Draws numbers of any size and sign, half of them whole."""
    for _ in range(count):
        size = 10 ** rng.uniform(-45, 45) * rng.choice((-1, 1))
        yield rng.choice((size, int(size), rng.randint(-10, 10), rng.uniform(-2, 2)))


def _complaint(cls: type, name: str, value: Any, is_legal: bool) -> tuple[str, bool]:
    """Says what is wrong with how a configuration takes one value, "" where nothing is, and whether it was built."""
    where = f"{cls.__name__}.{name} = {repr(value)[:60]}"
    try:
        cls(**NEEDED.get(cls, {}) | {name: value})
    except ValueError as error:
        said = str(error)
        names_field = name in said and (repr(value) in said or str(value) in said)
        starts = is_legal or said.startswith(f"{cls.__name__}.{name} is ")
        fine = names_field and starts and "; " in said and "\n" not in said
        return ("" if fine else f"{where} is refused with {said!r}"), False
    except Exception as error:  # noqa: BLE001  whatever it is, it is not the sentence that a user should read
        return f"{where} raises {type(error).__name__}: {error}", False
    return ("" if is_legal else f"{where} is taken"), True
