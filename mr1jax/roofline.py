"""What a step costs, read off the program: its matrix products, its collectives, and the time that a chip's peak rates bound it by.

XLA's own cost analysis counts the body of a loop once, and nearly everything here is in loops: layers are scanned, tokens are drawn one
after another. So products are counted on the traced program, where loops have their lengths, and collectives on the compiled one, where
the partitioner has put them.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

PHASES = ("prefill", "decode", "reward", "reference", "update")  # the named scopes of a step; a scope inside another is part of it
OTHER = "other"


@dataclass(frozen=True)
class Chip:
    """One chip's published peaks (cloud.google.com/tpu/docs) and the HBM that its compiler lets a program use.

    hbm: bytes; flops: of bfloat16, a second; bandwidth: of HBM, bytes a second; interconnect: bytes a second that arrive over all links.
    """

    name: str
    hbm: float
    flops: float
    bandwidth: float
    interconnect: float


class Product(NamedTuple):
    """A matrix product: how often it runs, and its FLOPs and bytes each time, over all chips. Weights are what no task has touched."""

    phase: str
    times: float
    flops: float
    weight_bytes: float
    other_bytes: float


def matrix_products(jaxpr: core.Jaxpr, weights: Sequence[bool], loop_length: int) -> list[Product]:
    """Lists every `dot_general` of a program, inside loops, branches and kernels.

    weights: which inputs are parameters; loop_length: what a `while` runs at most, the tokens of a response. Of branches the dearest
    counts. A product reads both operands and writes its result once, as if all that is elementwise were fused into it.
    """
    found: list[Product] = []
    _walk(jaxpr, list(weights), _Place("", 1.0, loop_length), found)
    return found


class _Place(NamedTuple):
    """Where in the program a jaxpr stands: the scopes around it, how often it runs, and how often a `while` in it does."""

    scopes: str
    times: float
    loop_length: int

    def inside(self, eqn: core.JaxprEqn, times: float = 1.0) -> "_Place":
        return self._replace(scopes=f"{self.scopes}/{eqn.source_info.name_stack}", times=self.times * times)


def _walk(jaxpr: core.Jaxpr, weights: list[bool], place: _Place, found: list[Product]) -> list[bool]:
    """Adds the products of a jaxpr to `found`. Returns which of its outputs depend on parameters alone, as its inputs' `weights` do."""
    pure: dict[Any, bool] = dict(zip(jaxpr.invars, weights, strict=True))

    def is_pure(atom) -> bool:
        return isinstance(atom, core.Literal) or pure.get(atom, True)

    for eqn in jaxpr.eqns:
        inputs = [is_pure(atom) for atom in eqn.invars]
        here = place.inside(eqn)
        if eqn.primitive.name == "dot_general":
            found.append(_product(eqn, inputs, here))
            outputs = [all(inputs)]
        else:
            outputs = _inner(eqn, inputs, place, found) or [all(inputs)] * len(eqn.outvars)
        pure |= dict(zip(eqn.outvars, outputs, strict=True))
    return [is_pure(atom) for atom in jaxpr.outvars]


def _inner(eqn: core.JaxprEqn, inputs: list[bool], place: _Place, found: list[Product]) -> list[bool] | None:
    """Walks the programs inside an equation; None where there are none."""
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        split = params["num_consts"] + params["num_carry"]
        carried = slice(params["num_consts"], split)
        return _loop(params["jaxpr"].jaxpr, inputs, carried, place.inside(eqn, params["length"]), found)
    if name == "while":
        body = inputs[params["cond_nconsts"] :]
        carried = slice(params["body_nconsts"], len(body))
        return _loop(params["body_jaxpr"].jaxpr, body, carried, place.inside(eqn, place.loop_length), found)
    if name == "cond":
        return _dearest([branch.jaxpr for branch in params["branches"]], inputs[1:], place.inside(eqn), found)
    times = 1.0
    if name == "pallas_call":
        times = math.prod(params["grid_mapping"].grid)
    if name == "shard_map":  # shapes inside are those of one shard
        times = params["mesh"].size
    for inner in _jaxprs(params):
        if len(inner.invars) == len(inputs):
            outputs = _walk(inner, inputs, place.inside(eqn, times), found)
            return outputs if len(outputs) == len(eqn.outvars) else None
        _walk(inner, [False] * len(inner.invars), place.inside(eqn, times), found)  # a kernel: its inputs are references and scratch
    return None


def _loop(body: core.Jaxpr, inputs: list[bool], carried: slice, place: _Place, found: list[Product]) -> list[bool]:
    """Walks the body of a loop once what it carries has settled: a parameter that a task touches in one turn is none in the next."""
    count = carried.stop - carried.start
    while True:
        outputs = _walk(body, inputs, place, [])
        settled = [before and after for before, after in zip(inputs[carried], outputs[:count], strict=True)]
        if settled == inputs[carried]:
            return _walk(body, inputs, place, found)
        inputs = [*inputs[: carried.start], *settled, *inputs[carried.stop :]]


def _dearest(branches: Sequence[core.Jaxpr], inputs: list[bool], place: _Place, found: list[Product]) -> list[bool]:
    lists: list[list[Product]] = [[] for _ in branches]
    outputs = [_walk(branch, inputs, place, products) for branch, products in zip(branches, lists, strict=True)]
    found += max(lists, key=lambda products: sum(product.times * product.flops for product in products))
    return [all(each) for each in zip(*outputs, strict=True)]


def _jaxprs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if isinstance(inner, core.Jaxpr):
            yield inner


def largest_arrays(jaxpr: core.Jaxpr, count: int) -> list[tuple[int, str, str]]:
    """Lists the largest arrays that a program computes, one of each shape: (bytes, dtype[shape], scopes)."""
    found: dict[str, tuple[int, str, str]] = {}

    def look(jaxpr: core.Jaxpr, place: _Place) -> None:
        for eqn in jaxpr.eqns:
            here = place.inside(eqn)
            avals: list[Any] = [atom.aval for atom in eqn.outvars]
            for aval in (each for each in avals if isinstance(getattr(each, "dtype", None), np.dtype)):
                array = f"{aval.dtype}[{','.join(map(str, aval.shape))}]"
                scope = "/".join(word for word in here.scopes.split("/") if word) or "the step"
                found.setdefault(array, (aval.size * aval.dtype.itemsize, array, scope))
            for inner in itertools.chain(_jaxprs(eqn.params), (branch.jaxpr for branch in eqn.params.get("branches", ()))):
                look(inner, here)

    look(jaxpr, _Place("", 1.0, 1))
    return sorted(found.values(), reverse=True)[:count]


def _product(eqn: core.JaxprEqn, inputs: list[bool], place: _Place) -> Product:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    avals: list[Any] = [atom.aval for atom in (*eqn.invars, *eqn.outvars)]
    left, right, out = avals
    flops = 2.0 * out.size * math.prod(left.shape[axis] for axis in contracted)
    sizes = [float(each.size * each.dtype.itemsize) for each in avals]
    weight_bytes = sum(size for size, weight in zip(sizes, [*inputs, False], strict=True) if weight)
    words = re.split(r"\W+", place.scopes)
    phase = next((word for word in words if word in PHASES), OTHER)
    return Product(phase, place.times, flops, weight_bytes, sum(sizes) - weight_bytes)


def total_flops(products: Sequence[Product]) -> float:
    """Sums the FLOPs of one step over all chips."""
    return sum(product.times * product.flops for product in products)


def bound_seconds(products: Sequence[Product], chip: Chip, num_chips: int, tensor: int) -> dict[str, float]:
    """Bounds the seconds of each phase from below: every product at the peak of the chip's FLOPs or of its HBM, whichever is slower.

    Work is taken to be divided evenly over the chips. A weight is read whole by every chip but for its `tensor` axis, since what fsdp cuts
    is gathered before it is used.
    """
    seconds: dict[str, float] = defaultdict(float)
    for product in products:
        moved = product.weight_bytes / tensor + product.other_bytes / num_chips
        seconds[product.phase] += product.times * max(product.flops / num_chips / chip.flops, moved / chip.bandwidth)
    return {phase: seconds[phase] for phase in (*PHASES, OTHER) if phase in seconds}


# ------------------------------------------------------------------------------------------------------ collectives of the compiled program

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(condition|body|calls|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=\d+")
_BITS = re.compile(r"\d+")


class _Instruction(NamedTuple):
    name: str
    type: str
    operation: str
    rest: str


def collectives(hlo: str, loop_length: int) -> dict[str, tuple[int, int]]:
    """Counts the collectives of a compiled program by kind: {kind: (how often they run, bytes that a chip sends or receives in all)}.

    hlo: the text of the compiled module, whose shapes are those of one chip. A loop runs as often as the number says that its condition
    compares with, else `loop_length` times. What one collective moves is its larger side: what it gathers, or what it scatters.
    """
    computations, entry = _parse(hlo)
    runs: Counter[str] = Counter()
    _count_runs(computations, entry, 1, loop_length, runs)
    found: dict[str, tuple[str, int, int]] = {}
    for name, instructions in computations.items():
        types = {instruction.name: instruction.type for instruction in instructions}
        for instruction in instructions:
            kind = next((kind for kind in _KINDS if instruction.operation in (kind, f"{kind}-start")), None)
            if kind == "all-reduce" and "all-reduce-scatter" in name:  # how a TPU's compiler writes it, fused with the slicing
                kind = "reduce-scatter"
            if kind is not None:
                # One that runs behind products is written in every fusion that moves it on, each time with the same channel; such a
                # fusion can stand in a loop beside which the collective as a whole runs once.
                channel = _CHANNEL.search(instruction.rest)
                key = channel[0] if channel else f"{name}/{instruction.name}"
                _, count, size = found.get(key, (kind, runs[name], 0))
                found[key] = kind, min(count, runs[name]), max(size, _moved(instruction, types))
    totals: dict[str, tuple[int, int]] = {}
    for kind, count, size in found.values():
        so_far = totals.get(kind, (0, 0))
        totals[kind] = (so_far[0] + count, so_far[1] + count * size)
    return {kind: total for kind, total in totals.items() if total[0]}


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    current, entry = "", ""
    for line in hlo.splitlines():
        header, instruction = _COMPUTATION.match(line), _INSTRUCTION.match(line)
        if header:
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif instruction and current:
            computations[current].append(_Instruction(*instruction.groups()))
    return computations, entry


def _count_runs(computations: Mapping[str, list[_Instruction]], name: str, times: int, loop_length: int, runs: Counter[str]) -> None:
    runs[name] += times
    for instruction in computations[name]:
        called = dict(_CALLED.findall(instruction.rest))
        if instruction.operation == "while":
            length = _loop_length(computations[called["condition"]], loop_length)
            for part in ("condition", "body"):
                _count_runs(computations, called[part], times * length, loop_length, runs)
            continue
        branches = _BRANCHES.search(instruction.rest)
        names = [each.strip(" %") for each in branches[1].split(",")] if branches else []
        for each in [*names, *([called["calls"]] if "calls" in called else [])]:
            _count_runs(computations, each, times, loop_length, runs)


def _loop_length(condition: Sequence[_Instruction], default: int) -> int:
    constants = [int(each.rest.split(")")[0]) for each in condition if each.operation == "constant" and re.match(r"\d+\)", each.rest)]
    return max(constants, default=default) or default


def _moved(instruction: _Instruction, types: Mapping[str, str]) -> int:
    operands = re.findall(r"%([\w.\-]+)", instruction.rest.split("), ")[0])
    parts = [_bytes(match) for match in _ARRAY.findall(instruction.type)]
    result = max(parts) if instruction.operation.endswith("-start") else sum(parts)
    given = sum(_bytes(match) for name in operands for match in _ARRAY.findall(types.get(name, "")))
    return max(result, given)


def _bytes(array: tuple[str, str]) -> int:
    dtype, shape = array
    bits = _BITS.search(dtype)
    size = math.prod(int(axis) for axis in shape.split(",") if axis)
    return size * (int(bits[0]) if bits else 8) // 8
