"""Does a step fit a TPU? The real step, compiled for a TPU that is not there, from shapes alone: no weights, no accelerator.

libtpu holds the TPU's compiler, and that runs on any Linux machine. So what a chip would hold and what the chips would send each other is
known before anyone pays for them. Times are bounds by published peaks and marked as estimates: nothing here has run.
"""

import importlib.util
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.extend import core
from jax.sharding import Mesh

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import Dates, Language, make_language
from mr1jax.agents.rollout import AnswerTask, ManagerTask
from mr1jax.config import AGENTS, Config, MeshConfig, replace, require
from mr1jax.data.episodes import EpisodeShape
from mr1jax.data.memdial.world import conversations
from mr1jax.fit_report import GIB, Fit, as_record, describe_fit
from mr1jax.memory.bank import init_bank
from mr1jax.model.backbones import read_config
from mr1jax.model.hub import SETTINGS, find_backbone
from mr1jax.model.lora import init_adapter
from mr1jax.model.transformer import init_params, logical_axes
from mr1jax.prepare import ASSETS
from mr1jax.roofline import Chip, bound_seconds, collectives, largest_arrays, matrix_products, total_flops
from mr1jax.sharding import batch_sharding, make_mesh, param_sharding, replicated, state_sharding
from mr1jax.step import Tasks, compile_train_step, init_state
from mr1jax.structs import PyTree, TrainState
from mr1jax.text.tokenizer import SentencePieceTokenizer

ROOT = Path(__file__).resolve().parents[1]
LIBTPU = ROOT / ".libtpu" / "libtpu" / "libtpu.so"
SHAPES = ROOT / "tpu" / "shapes"  # the settings of some published models, for machines without a network
CHIPS = {  # by the name that JAX has for them
    "TPU v5 lite": Chip("v5e", hbm=15.75 * GIB, flops=197e12, bandwidth=819e9, interconnect=200e9),
    "TPU v5": Chip("v5p", hbm=95.74 * GIB, flops=459e12, bandwidth=2765e9, interconnect=600e9),
    "TPU v6 lite": Chip("v6e", hbm=31.25 * GIB, flops=918e12, bandwidth=1638e9, interconnect=400e9),
}
_NUM_CONVERSATIONS = 16  # enough to know how long their facts, questions and answers are
_WITHOUT_A_TPU = {  # several processes may load the compiler, since none of them holds a chip
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_LOG_DIR": "disabled",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def check_fit(config: Config, topology: str) -> Fit:
    """Compiles the step of a configuration for a TPU topology such as "v5e:4x4" and says what it takes.

    config.mesh of one device means: choose. Raises ValueError where there is no such topology, no libtpu, or where the mesh, the batch or
    a prompt budget does not fit the other settings.
    """
    devices = tpu_devices(topology)
    chip = CHIPS.get(devices[0].device_kind)
    require(chip is not None, f"topology {topology} has chips of kind {devices[0].device_kind}; known are {_known_chips()}")
    config = _with_model(replace(config, mesh=choose_mesh(config, topology, len(devices))))
    mesh = make_mesh(config.mesh, devices)
    state, base, language, tasks = abstract_arguments(config)
    arguments = _argument_bytes(config, mesh, state, base, language, tasks)
    step = compile_train_step(config, mesh, state, *base)
    traced = step.trace(state, tasks, language, *base)  # type: ignore[attr-defined]
    about = _describe(config, topology, chip)
    length = max(config.manager.response_length, config.answerer.response_length)
    products = matrix_products(traced.jaxpr.jaxpr, _are_weights(state, tasks, language, base), length)
    costs: dict[str, Any] = dict(flops=total_flops(products), seconds=bound_seconds(products, chip, mesh.size, mesh.shape["tensor"]))
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return Fit(about, chip, arguments, problem=_explain(error, traced.jaxpr.jaxpr), **costs)
    memory = compiled.memory_analysis()
    hbm = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    found = Fit(about, chip, arguments, hbm, collectives=collectives(compiled.as_text(), length), **costs)
    over = f"the step takes {found.total / GIB:.2f} GiB a chip, and a {chip.name} lets a program use {chip.hbm / GIB:.2f} GiB"
    return found if found.total <= chip.hbm else replace(found, problem=over)


def report_fit(config: Config, topology: str, json_file: Path | None = None) -> bool:
    """Prints what `check_fit` finds, writes it to a file where one is named, and says whether the step fits."""
    found = check_fit(config, topology)
    print(describe_fit(found))
    if json_file is not None:
        json_file.write_text(json.dumps(as_record(found), indent=2) + "\n")
    return not found.problem


def tpu_devices(topology: str) -> list[jax.Device]:
    """Returns the chips of a topology that is not there; raises ValueError where there is no such topology, or no compiler for it."""
    os.environ.update(_WITHOUT_A_TPU)
    jax.config.update("jax_platforms", "cpu")  # this machine's own, for what little is computed
    require(
        has_compiler(), "there is no libtpu here, which holds the TPU's compiler; on Linux on x86 this installs it: make .libtpu/.ready"
    )
    if LIBTPU.is_file():
        os.environ["TPU_LIBRARY_PATH"] = str(LIBTPU)
    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if re.fullmatch(r"\w+:1(x1)+", topology) else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **one_chip)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).removeprefix("INVALID_ARGUMENT: ").split("\n")[0]
        raise ValueError(f"there is no TPU topology {topology!r} ({reason}); give one such as v5e:4x4, v5p:2x2x1 or v6e:2x4") from error
    return list(found.devices)


def has_compiler() -> bool:
    """Tells whether libtpu is there: where `make fit` puts it, or as a package."""
    return LIBTPU.is_file() or importlib.util.find_spec("libtpu") is not None


def choose_mesh(config: Config, topology: str, num_chips: int) -> MeshConfig:
    """Returns the mesh to compile for: the configured one, or where that is of one device fsdp as far as the prompts divide, then tensor.

    Raises ValueError where the configured mesh is not of all chips.
    """
    mesh = config.mesh
    if mesh.num_devices == 1:
        fsdp = math.gcd(num_chips, config.prompts_per_step)
        return MeshConfig(fsdp=fsdp, tensor=num_chips // fsdp)
    require(
        mesh.num_devices == num_chips,
        f"a mesh of data {mesh.data}, fsdp {mesh.fsdp} and tensor {mesh.tensor} has {mesh.num_devices} devices, and {topology} has "
        f"{num_chips} chips; make their product {num_chips}",
    )
    return mesh


def abstract_arguments(config: Config) -> tuple[TrainState, list[PyTree], Language, Tasks]:
    """Returns the shapes of what the step is called with: (state, [base] with LoRA else [], language, tasks of one step).

    Text is measured by the tokenizer that ships, with its tables widened to the model's vocabulary: all of it is a few MiB, replicated.
    """
    tokenizer = SentencePieceTokenizer(ASSETS / "tokenizer.model")
    language = make_language(tokenizer, max(getattr(config, agent).num_shown for agent in AGENTS), distill=config.distill)
    shape = EpisodeShape.fit(conversations("train", 1, _NUM_CONVERSATIONS), tokenizer, config.bank.slot_width)
    wider = config.model.vocab_size - tokenizer.vocab_size
    by_token = (tokenizer.vocab_size, tokenizer.vocab_size + 1)

    def widened(x):
        return jax.ShapeDtypeStruct(tuple(size + wider * (size in by_token) for size in x.shape), x.dtype)

    base, own = [], jax.eval_shape(lambda: init_params(config.model, jax.random.key(0)))
    if config.lora.rank:
        base = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(config.lora.base_dtype)), own)]
        own = jax.eval_shape(lambda base: init_adapter(config.lora, base, jax.random.key(0)), *base)
    params = dict.fromkeys(AGENTS, own)
    state = jax.eval_shape(lambda params, key: init_state(config, params, key), params, jax.random.key(0))
    return state, base, jax.tree.map(widened, language), abstract_tasks(config, shape)


def abstract_tasks(config: Config, shape: EpisodeShape) -> Tasks:
    """Returns the shapes of the tasks of one step on conversations of a shape: what `make_tasks` would make of them, a batch of it."""
    require(
        config.answerer.retrieval == "lexical",
        f"answerer.retrieval is {config.answerer.retrieval!r}, whose embeddings have no size before there is an encoder; use 'lexical'",
    )

    def ints(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.prompts_per_step, *sizes), jnp.int32)

    def asked(*lead: int) -> AskedQuestion:
        answer = jax.ShapeDtypeStruct((*ints(*lead).shape, shape.answer_bytes), jnp.uint8)
        return AskedQuestion(ints(*lead, shape.question_width), ints(*lead), answer, ints(*lead))

    remembers_all = config.agent == "answerer"
    bank_config = replace(config.bank, num_slots=shape.num_facts) if remembers_all else config.bank
    bank = jax.eval_shape(lambda: init_bank(bank_config))
    banks = jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.prompts_per_step, *x.shape), x.dtype), bank)
    dates = Dates(ints(shape.num_dates, shape.date_width), ints(shape.num_dates))
    if remembers_all:
        return AnswerTask(banks, asked(), dates)
    Q = config.questions_per_state
    is_asked = jax.ShapeDtypeStruct(ints(Q).shape, jnp.bool_)
    turns = config.lead + min(config.horizon, shape.num_facts - 1)
    fact, later = (NewFact(ints(*lead, shape.slot_width), ints(*lead), ints(*lead), ints(*lead)) for lead in ((), (turns,)))
    return ManagerTask(banks, fact, asked(Q), is_asked, dates, later if turns else None)


def _with_model(config: Config) -> Config:
    """Fills in the sizes of the backbone: of a name that ships, a folder, or `config.json` of the hub."""
    if not config.backbone:
        return replace(config, model=replace(config.model, vocab_size=SentencePieceTokenizer(ASSETS / "tokenizer.model").vocab_size))
    shipped = SHAPES / config.backbone
    folder = shipped if (shipped / "config.json").is_file() else find_backbone(config.backbone, SETTINGS)[1]
    return replace(config, model=replace(read_config(folder), dtype=config.model.dtype, remat=config.model.remat))


def _argument_bytes(config: Config, mesh: Mesh, state: TrainState, base: list[PyTree], language: Language, tasks: Tasks) -> dict[str, int]:
    """Adds up what one chip holds of each argument, as the step lays it out; what the chip pads to whole tiles is not in it."""
    layout = state_sharding(state, logical_axes(state.params[config.agent]), mesh)
    frozen = next(agent for agent in AGENTS if agent != config.agent)
    parts = {
        f"parameters of the {config.agent}": (state.params[config.agent], layout.params[config.agent]),
        f"parameters of the {frozen}": (state.params[frozen], layout.params[frozen]),
        "optimizer": (state.opt_state, layout.opt_state),
        "reference": (state.reference, layout.reference),
        "base": (base, [param_sharding(tree, logical_axes(tree), mesh) for tree in base]),
        "tasks": (tasks, batch_sharding(mesh)),
        "language": (language, replicated(mesh)),
    }
    return {name: _shard_bytes(*part) for name, part in parts.items() if jax.tree.leaves(part[0])}


def _shard_bytes(tree: PyTree, layout: PyTree) -> int:
    leaves = jax.tree.leaves(tree)
    shardings = jax.tree.leaves(layout)
    shardings = shardings * len(leaves) if len(shardings) == 1 else shardings
    return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in zip(leaves, shardings, strict=True))


def _are_weights(state: TrainState, tasks: Tasks, language: Language, base: list[PyTree]) -> list[bool]:
    """Tells of every input of the traced step whether it is a parameter, in the order of its arguments."""
    marked = (jax.tree.map(lambda _: True, state), jax.tree.map(lambda _: False, (tasks, language)), jax.tree.map(lambda _: True, base))
    return jax.tree.leaves(marked)


def _explain(error: Exception, jaxpr: core.Jaxpr) -> str:
    """Says in a sentence why the compiler gave up where HBM was short, and what the program's largest arrays are; raises anything else."""
    said = str(error).split("\n")[0]
    if not said.startswith("RESOURCE_EXHAUSTED: "):
        raise error
    arrays = "; ".join(f"{size / GIB:.1f} GiB {array} in {scope}" for size, array, scope in largest_arrays(jaxpr, 3))
    return f"{said.removeprefix('RESOURCE_EXHAUSTED: ').rstrip('.')}; the largest arrays, of all chips together: {arrays}"


def _describe(config: Config, topology: str, chip: Chip) -> dict[str, Any]:
    return {
        "agent": config.agent,
        "algorithm": config.loss.algorithm,
        "backbone": config.backbone or "tiny",
        "topology": topology,
        "chip": chip.name,
        "mesh": [config.mesh.data, config.mesh.fsdp, config.mesh.tensor],
        "lora_rank": config.lora.rank,
        "dtype": config.model.dtype,
        "prompts": config.prompts_per_step,
        "group_size": config.group_size,
        "prompt_length": config.trained.prompt_length,
        "response_length": config.trained.response_length,
        "jax": jax.__version__,
    }


def _known_chips() -> str:
    return ", ".join(chip.name for chip in CHIPS.values())
