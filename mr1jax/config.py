"""Frozen dataclasses of everything someone may tune. A wrong value raises `ValueError` on the host, before anything compiles.

The message always names the field, its value and what to do; the command line prints it alone and exits with status 2.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from mr1jax.checks import require, require_between, require_positive, require_types

Agent = Literal["manager", "answerer"]
RetrievalKind = Literal["lexical", "dense", "hybrid"]
RewardKind = Literal["em", "f1", "judge_like"]
AGENTS: tuple[Agent, ...] = ("manager", "answerer")
Projection = Literal["query", "key", "value", "output", "gate", "up", "down"]
PROJECTIONS: tuple[Projection, ...] = ("query", "key", "value", "output", "gate", "up", "down")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder in the Qwen2 / Llama shape. The defaults are `tiny`, the model that ships."""

    vocab_size: int = 1536
    d_model: int = 128
    num_layers: int = 5
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    d_ff: int = 256
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False  # of Qwen3: queries and keys are normalised in each head, before they are rotated
    tie_embeddings: bool = True
    rope_factor: float = 1.0  # of Llama 3.1: slow rotations are slowed further by this; 1 leaves all as they are
    rope_low_freq_factor: float = 1.0  # fewer turns than this in `rope_original_length` tokens is slow
    rope_high_freq_factor: float = 4.0  # more turns than this is fast, and is left alone
    rope_original_length: int = 8192  # tokens, before the context was lengthened
    remat: bool = True  # recompute a layer in the backward pass: less memory, and on a CPU less time too
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; norms, softmax and log-probabilities stay float32

    def __post_init__(self):
        require_types(self)
        require_positive(
            self, "vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff", "rope_theta", "norm_eps"
        )
        require_positive(self, "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_length")
        require(
            self.rope_low_freq_factor < self.rope_high_freq_factor,
            f"ModelConfig.rope_low_freq_factor is {self.rope_low_freq_factor}; it must be below "
            f"rope_high_freq_factor {self.rope_high_freq_factor}",
        )
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"ModelConfig.num_heads is {self.num_heads}, which num_kv_heads {self.num_kv_heads} does not divide; choose a divisor",
        )
        require(self.head_dim % 2 == 0, f"ModelConfig.head_dim is {self.head_dim}; rotary embedding needs an even number")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on one frozen base instead of all parameters of each agent. Rank 0 is full fine-tuning."""

    rank: int = 0
    alpha: float = 16.0  # what an adapter adds is scaled by alpha / rank
    targets: tuple[Projection, ...] = PROJECTIONS  # the matrices of every layer that have an adapter
    base_dtype: Literal["float32", "bfloat16"] = "float32"  # in which the base is stored; adapters and their moments are float32

    def __post_init__(self):
        require_types(self)
        require_between(self, 0, 100_000, "rank")
        require_positive(self, "alpha")
        known = set(self.targets) <= set(PROJECTIONS) and len(set(self.targets)) == len(self.targets) > 0
        require(known, f"LoraConfig.targets is {self.targets!r}; choose one or more of {', '.join(PROJECTIONS)}, each once")


@dataclass(frozen=True)
class BankConfig:
    """The fixed shape of a memory bank."""

    num_slots: int = 16
    slot_width: int = 24  # tokens
    num_terms: int = 16  # hashed words kept of a slot
    when_full: Literal["evict_oldest", "reject"] = "evict_oldest"

    def __post_init__(self):
        require_types(self)
        require_positive(self, "num_slots", "slot_width", "num_terms")


@dataclass(frozen=True)
class AgentConfig:
    """What one agent sees and may say."""

    num_retrieved: int
    prompt_length: int  # tokens; over this budget the lowest ranked memories go first
    response_length: int  # tokens, the end token included
    per_speaker: bool = False  # retrieve num_retrieved from each speaker's memories (the paper's 30 + 30)
    retrieval: RetrievalKind = "lexical"  # by words, by meaning, or by both; the last two for the Answer Agent only

    def __post_init__(self):
        require_types(self)
        require_positive(self, "num_retrieved", "prompt_length", "response_length")

    @property
    def num_shown(self) -> int:
        """Memories in a prompt at most."""
        return self.num_retrieved * (2 if self.per_speaker else 1)


@dataclass(frozen=True)
class SamplingConfig:
    """How a response is drawn. temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        require_types(self)
        require_between(self, 0.0, 100.0, "temperature")
        require_between(self, 0, 1_000_000, "top_k")
        require(0.0 < self.top_p <= 1.0, f"SamplingConfig.top_p is {self.top_p}; it must be greater than 0 and at most 1")


GREEDY = SamplingConfig(temperature=0.0)


@dataclass(frozen=True)
class LossConfig:
    """An algorithm, of what `rl.algorithms` says it is made, and its coefficients."""

    algorithm: Literal["grpo", "ppo", "dr_grpo", "dapo", "gspo"] = "grpo"
    clip_eps: float = 0.2  # of the ratio to the policy that sampled; GSPO, whose ratio is of whole responses, takes 3e-4
    clip_eps_high: float = 0.28  # the same above 1, read by DAPO and by GSPO, which takes 4e-4; the others have clip_eps on both sides
    kl_coef: float = 0.0  # 0: no reference pass is made at all
    entropy_coef: float = 0.0
    value_coef: float = 0.5
    value_clip_eps: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 1.0
    epochs: int = 1  # passes over one rollout
    num_minibatches: int = 1  # updates a pass; prompts are divided, a group never is
    num_microbatches: int = 1  # parts of a minibatch whose gradients are added up: the same update in less memory

    def __post_init__(self):
        require_types(self)
        require_positive(self, "clip_eps", "clip_eps_high", "value_clip_eps", "epochs", "num_minibatches", "num_microbatches")
        require_between(self, 0.0, 1e6, "kl_coef", "entropy_coef", "value_coef")
        require_between(self, 0.0, 1.0, "gamma", "gae_lambda")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up to a constant, as the paper trains."""

    learning_rate: float = 3e-4
    warmup_steps: int = 5
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.99
    spike_sigmas: float = 0.0  # skip an update whose loss or gradient norm is so many deviations above those before it; 0: none is
    max_skipped: int = 3  # steps in a row that only skip, because something is not finite or a spike, after which a run gives up

    def __post_init__(self):
        require_types(self)
        require_positive(self, "learning_rate", "max_grad_norm", "max_skipped")
        require_between(self, 0.0, 1e6, "spike_sigmas")
        require_between(self, 0, 10**9, "warmup_steps", "weight_decay")
        for name in ("b1", "b2"):  # at 1 the moments of Adam never forget their zero, and its update is 0 / 0
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"OptimizerConfig.{name} is {value}; it must be at least 0 and less than 1")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; their product is the number of devices used."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    gather_for_rollout: bool = False  # what fsdp cuts is put together once a rollout instead of once a token: faster, and more memory

    def __post_init__(self):
        require_types(self)
        require_positive(self, "data", "fsdp", "tensor")

    @property
    def num_devices(self) -> int:
        return self.data * self.fsdp * self.tensor


@dataclass(frozen=True)
class ProcessConfig:
    """How the processes of one run find each other. The default is a run of one process; no part of what is trained."""

    coordinator: str = ""  # host:port where process 0 listens; auto: what a TPU pod, Slurm or Open MPI says of all three
    num_processes: int = 1
    process_id: int = 0
    timeout: int = 300  # seconds that one waits for the others at the start

    def __post_init__(self):
        require_types(self)
        require_positive(self, "num_processes", "timeout")
        require_between(self, 0, self.num_processes - 1, "process_id")
        host, _, port = self.coordinator.rpartition(":")
        require(
            self.coordinator in ("", "auto") or (host != "" and port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 2**16),
            f"ProcessConfig.coordinator is {self.coordinator!r}; give host:port of process 0, or auto",
        )
        require(
            self.num_processes == 1 or self.coordinator not in ("", "auto"),
            f"ProcessConfig.num_processes is {self.num_processes}, and coordinator {self.coordinator!r}; give host:port of process 0",
        )


@dataclass(frozen=True)
class Config:
    """One training run. An experiment file returns one of these; the command line overrides its fields."""

    agent: Agent = "answerer"  # which agent trains; the other is frozen
    data: Literal["memdial", "locomo"] = "memdial"
    conversations: int = 128  # of the training split, that tasks are drawn from
    steps: int = 60
    save_every: int = 50  # steps; the last is saved too
    validation_tasks: int = 0  # of the validation split, rewarded before every save: the best step saved is then the run's result
    prompts_per_step: int = 16
    prompts_kept: int = 0  # how many of these are trained on, those first whose rewards differ (DAPO's dynamic sampling); 0: all
    group_size: int = 8
    rollout_microbatches: int = 1  # the prompts of a step are drawn from in so many parts, one after another: less memory, and slower
    reward: RewardKind = "em"  # of an answer: exact match as in the paper, F1 of words, or 1 where it says all words of the gold answer
    distill: bool = True  # the Answer Agent first quotes the memories that it relies on; False: it answers at once
    banks_by: Literal["append_only", "manager"] = "append_only"  # the Answer Agent is asked about banks with all there is, or a Manager's
    questions_per_state: int = 4  # asked of the bank that each candidate operation leaves (Manager only)
    horizon: int = 0  # turns that each member of a group plays on before it is asked (Manager only); as many as there are: a whole replay
    lead: int = 0  # turns that each member first plays by itself, unlearnt, so that a group compares different banks (Manager only)
    max_facts: int = 0  # the first so many facts of each conversation are trained on, as a curriculum starts with; 0: all
    seed: int = 0
    backbone: str = ""  # a Hugging Face folder, a name of `BACKBONES` or an id of the hub; empty: the tiny model that ships
    encoder: str = ""  # folder of a sentence encoder such as all-MiniLM-L6-v2, for dense and hybrid retrieval
    manager_from: str = ""  # folder of a run whose trained Manager to start from; empty: the shipped warm start
    answerer_from: str = ""  # the same for the Answer Agent
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    manager: AgentConfig = AgentConfig(num_retrieved=3, prompt_length=100, response_length=32)
    answerer: AgentConfig = AgentConfig(num_retrieved=3, prompt_length=100, response_length=40)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        require_types(self)
        require_positive(self, "conversations", "steps", "save_every", "prompts_per_step", "group_size", "rollout_microbatches")
        require_positive(self, "questions_per_state")
        require_between(self, 0, 10**9, "validation_tasks", "horizon", "lead", "max_facts")
        require_between(self, 0, 2**31 - 1, "seed")
        require(
            self.manager.retrieval == "lexical",
            f"Config.manager.retrieval is {self.manager.retrieval!r}; what the Manager has just written has no embedding: use 'lexical'",
        )
        require(
            self.answerer.retrieval == "lexical" or self.encoder != "",
            f"Config.answerer.retrieval is {self.answerer.retrieval!r}, which needs the folder of a sentence encoder in Config.encoder",
        )
        shards = self.mesh.data * self.mesh.fsdp
        require(
            self.prompts_per_step % shards == 0,
            f"Config.prompts_per_step is {self.prompts_per_step}, which the {shards} devices of the data and fsdp axes do not divide; "
            f"use {max(shards, self.prompts_per_step // shards * shards)}",
        )
        loss, rollout = self.loss, self.rollout_microbatches
        updates = f"loss.num_minibatches {loss.num_minibatches} times loss.num_microbatches {loss.num_microbatches}"
        for name, count, product in (
            ("prompts_kept" if self.prompts_kept else "prompts_per_step", loss.num_minibatches * loss.num_microbatches, updates),
            ("prompts_per_step", rollout, f"rollout_microbatches {rollout}"),
        ):
            parts, prompts = shards * count, getattr(self, name)
            require(
                prompts % parts == 0,
                f"Config.{name} is {prompts}, which {product} times {shards} devices does not divide; "
                f"use {max(parts, prompts // parts * parts)}",
            )
        self._require_groups()
        require(
            self.sampling.temperature > 0 and self.sampling.top_k == 0 and self.sampling.top_p == 1.0,
            f"Config.sampling has temperature {self.sampling.temperature}, top_k {self.sampling.top_k} and top_p {self.sampling.top_p}; "
            "training scores the whole distribution: use a temperature above 0, top_k 0 and top_p 1",
        )

    def _require_groups(self) -> None:
        """Refuses groups of which the algorithm makes nothing."""
        algorithm, kept = self.loss.algorithm, f"Config.prompts_kept is {self.prompts_kept}"
        require(
            algorithm == "ppo" or self.group_size > 1,
            f"Config.group_size is {self.group_size}; {algorithm} compares the members of a group and needs 2 or more",
        )
        most = self.prompts_per_step
        require(0 <= self.prompts_kept <= most, f"{kept}; it must be from 0, which keeps all, to prompts_per_step {most}")
        require(not self.prompts_kept or algorithm != "ppo", f"{kept}; ppo learns from groups of equal rewards too and keeps all: use 0")

    @property
    def prompts_trained(self) -> int:
        """Prompts of a step whose groups go into the loss."""
        return self.prompts_kept or self.prompts_per_step

    @property
    def trained(self) -> AgentConfig:
        return self.manager if self.agent == "manager" else self.answerer


def replace(config, **changes):
    """`dataclasses.replace`, so callers need one import for configuration."""
    return dataclasses.replace(config, **changes)
