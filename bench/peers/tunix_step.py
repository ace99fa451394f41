"""Times steps of google-tunix's GRPOLearner with its vanilla rollout. A step runs from one call of the reward function to the next.

python -m bench.peers.tunix_step '<JSON of a Work>'

Nothing is downloaded: weights are random, and a token is a number in decimal.
"""

import platform
from importlib.metadata import version

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.models.qwen2.model import ModelConfig, Qwen2
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig

from bench.peers.work import Clock, Seen, Work, finish, told

PAD = 0
INITIAL_SCALE = 0.02  # as transformers draws a Qwen2


class Numbers:
    """A tokenizer whose tokens are numbers with spaces between them. The end token is none of them, so that no response ends early."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str, **_) -> list[int]:
        """Reads numbers."""
        return [int(number) for number in text.split()]

    def decode(self, tokens, **_) -> str:
        """Writes numbers."""
        return " ".join(str(int(token)) for token in tokens)

    def bos_id(self) -> int:
        """Returns 0, for which the sampler puts nothing before a prompt."""
        return 0

    def eos_id(self) -> int:
        """Returns a number past the vocabulary."""
        return self.vocab_size

    def pad_id(self) -> int:
        """Returns the token that prompts do without."""
        return PAD


def main() -> None:
    """Does the steps and prints their seconds."""
    work, clock, responses, prompts = told(), Clock(), [], []

    def even_share(completions: list[str], **_) -> list[float]:
        clock.mark()
        rows = [[int(number) for number in completion.split()] for completion in completions]
        responses.extend(map(len, rows))
        return [sum(token % 2 == 0 for token in row) / len(row) for row in rows]

    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    cluster = make_cluster(work, mesh)
    note_prompts(cluster, prompts)
    algorithm = GRPOConfig(num_generations=work.group, num_iterations=1, beta=work.kl_coef, kl_loss_mode="low_var_kl")  # the others' own
    learner = GRPOLearner(rl_cluster=cluster, reward_fns=even_share, algo_config=algorithm)
    trained, reference = cluster.actor_trainer.model, cluster.inference_worker.get_model("reference")
    start = jax.tree.map(jnp.copy, tensors(trained))
    with mesh:
        learner.train(batches(work), None)
    seen = Seen(
        parameters=sum(tensor.size for tensor in start),
        dtype=str(jnp.result_type(*start)),
        prompts=prompts,
        responses=responses,
        kl=[float(kl) for kl in cluster.actor_trainer.metrics_logger.get_metric_history("actor", "kl", "train")],
        moved=changes(start, tensors(trained)),
        reference_moved=changes(start, tensors(reference)),
    )
    names = ("google-tunix", "jax", "jaxlib", "flax")
    finish(work, clock, seen, {"python": platform.python_version()} | {name: version(name) for name in names})


def make_cluster(work: Work, mesh: jax.sharding.Mesh) -> rl_cluster.RLCluster:
    """Builds the models in their roles, with one update a step of the whole batch."""
    with mesh:
        trained, reference = make_model(work), make_model(work)
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh),
        rollout_engine="vanilla",
        offload_to_cpu=False,
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optax.adamw(work.learning_rate, weight_decay=0.0),
            max_steps=work.steps,
            eval_every_n_steps=work.steps + 1,  # never
        ),
        rollout_config=RolloutConfig(
            max_prompt_length=work.prompt_length,
            max_tokens_to_generate=work.response_length,
            kv_cache_size=work.prompt_length + work.response_length,
            temperature=1.0,
            top_p=1.0,
            top_k=None,
        ),
    )
    return rl_cluster.RLCluster(actor=trained, reference=reference, tokenizer=Numbers(work.vocab_size), cluster_config=config)


def make_model(work: Work) -> Qwen2:
    """Makes a model of the sizes told; every call draws the same weights.

    The library leaves an MLP that was not read from a file at zero, where it would never move, and embeddings with a deviation of 1.
    """
    config = ModelConfig(
        num_layers=work.num_layers,
        vocab_size=work.vocab_size,
        embed_dim=work.d_model,
        hidden_dim=work.d_ff,
        num_heads=work.num_heads,
        head_dim=work.head_dim,
        num_kv_heads=work.num_kv_heads,
        rope_theta=work.rope_theta,
        norm_eps=work.norm_eps,
        use_tied_embedding=True,
    )
    model, rng = Qwen2(config, rngs=nnx.Rngs(0)), np.random.default_rng(0)

    def draw(tensor: jax.Array) -> jax.Array:
        return jnp.asarray(rng.normal(0, INITIAL_SCALE, tensor.shape), tensor.dtype) if tensor.ndim > 1 else tensor

    nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
    return model


def note_prompts(cluster: rl_cluster.RLCluster, prompts: list[int]) -> None:
    """Makes the cluster note how long the prompts are whenever it asks the reference."""
    ask = cluster.get_ref_per_token_logps

    def ask_and_note(prompt_tokens: jax.Array, *args, **kwargs) -> jax.Array:
        prompts.append(prompt_tokens.shape[1])
        return ask(prompt_tokens, *args, **kwargs)

    cluster.get_ref_per_token_logps = ask_and_note


def batches(work: Work) -> grain.MapDataset:
    """Draws other prompts for every step."""
    tokens = np.random.default_rng(0).integers(PAD + 1, work.vocab_size, (work.prompts * work.steps, work.prompt_length))
    texts = [" ".join(map(str, row)) for row in tokens]
    return grain.MapDataset.source(texts).batch(work.prompts).map(lambda batch: {"prompts": batch})


def tensors(model: nnx.Module) -> list[jax.Array]:
    """Lists the parameters of a model."""
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def changes(before: list[jax.Array], after: list[jax.Array]) -> list[float]:
    """Returns the largest change of each tensor."""
    return [float(jnp.abs(new - old).max()) for old, new in zip(before, after, strict=True)]


if __name__ == "__main__":
    main()
