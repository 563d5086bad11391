"""FLOPs and bytes of a program, counted on its jaxpr.

The compiler's own count takes the body of a loop once and a kernel as nothing. Here
loops are multiplied by their length, what is computed again in a backward pass is in
the jaxpr as such, and a kernel counts as its body at every place of its grid.

Matrix products alone are counted: everything else is fused into them or small beside
them. Programs without any are bound by what they read and write: their arguments and
results.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gru_mem_jax.errors import RunError


class Cost(NamedTuple):
    """What a program does, on all devices together.

    Attributes:
      flops: of matrix products: 2 m n k for [m, k] by [k, n].
      bytes: operands and results of products, each once where it is used. A number
        that was widened before counts as it was stored.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def times(self, count: float) -> "Cost":
        """The same, so often."""
        return Cost(self.flops * count, self.bytes * count)

    def plus(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def program_cost(
    jaxpr: Any, loops: Sequence[float] = (), seen: float = 1.0, read: float = 1.0
) -> Cost:
    """The cost of a traced program, such as `jax.jit(f).trace(*args).jaxpr`.

    Of the branches of a condition the dearest counts; if one has a kernel that one: the
    others are for what the kernel cannot do.

    Args:
      jaxpr: closed or open.
      loops: mean length of loops whose end only the data decide, the outermost first.
      seen: share of a kernel's grid that is computed, where the data decide.
      read: share of a kernel's arrays that it moves, where the data decide.

    Raises:
      RunError: such a loop has no length in `loops`.
    """
    return _cost(_open(jaxpr), tuple(loops), (seen, read), {})


def mean_key_blocks(length: int, queries: int, keys: int) -> float:
    """Blocks of keys that a block of queries sees, in a row that is one conversation.

    Args:
      length: tokens of the row, whole blocks.
      queries, keys: of a block.
    """
    ends = range(queries, length + 1, queries)
    return sum(-(-end // keys) for end in ends) / len(ends)


_ONCE = (1.0,) * 8
# Results of these are as wide in memory as what they are made of.
_SAME_NUMBERS = {
    "convert_element_type",
    "transpose",
    "reshape",
    "squeeze",
    "expand_dims",
    "slice",
    "dynamic_slice",
    "optimization_barrier",
    "copy",
}


def _cost(
    jaxpr: Any,
    loops: tuple[float, ...],
    shares: tuple[float, float],
    widths: dict[Any, int],
) -> Cost:
    """`widths`: bytes a number of variables that were widened."""

    def width(var: Any) -> int:
        own: int = var.aval.dtype.itemsize
        known = None if _is_literal(var) else widths.get(var)
        return own if known is None else min(own, known)

    def inside(inner: Any, operands: Sequence[Any], loops=loops) -> Cost:
        inner = _open(inner)
        known = {}
        if len(inner.invars) == len(operands):
            for var, operand in zip(inner.invars, operands, strict=True):
                if _has_numbers(operand):
                    known[var] = width(operand)
        return _cost(inner, loops, shares, known)

    total = Cost()
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name in _SAME_NUMBERS and _has_numbers(eqn.invars[0]):
            widths[eqn.outvars[0]] = width(eqn.invars[0])
        if name == "dot_general":
            total = total.plus(_product(eqn, width))
        elif name == "scan":
            body = inside(params["jaxpr"], eqn.invars)
            total = total.plus(body.times(params["length"]))
        elif name == "while":
            operands = eqn.invars[params["cond_nconsts"] :]
            body = inside(params["body_jaxpr"], operands, loops[1:])
            if body == Cost():
                continue
            if not loops:
                raise RunError("a loop of unknown length has matrix products in it")
            total = total.plus(body.times(loops[0]))
        elif name == "cond":
            branches = params["branches"]
            branches = [b for b in branches if _has_kernel(b)] or branches
            total = total.plus(max(inside(b, eqn.invars[1:]) for b in branches))
        elif name == "pallas_call":
            total = total.plus(_kernel(eqn, loops, shares))
        else:
            ways = 1
            if name == "shard_map":
                axes = params.get("manual_axes") or params["mesh"].axis_names
                ways = math.prod(params["mesh"].shape[axis] for axis in axes)
            for inner in _inner(params):
                total = total.plus(inside(inner, eqn.invars).times(ways))
    return total


def _product(eqn: Any, width: Any) -> Cost:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left, right, out = *eqn.invars, eqn.outvars[0]
    depth = math.prod(left.aval.shape[i] for i in contracted)
    moved = sum(math.prod(var.aval.shape) * width(var) for var in (left, right))
    moved += math.prod(out.aval.shape) * out.aval.dtype.itemsize
    return Cost(2.0 * math.prod(out.aval.shape) * depth, float(moved))


def _kernel(eqn: Any, loops: tuple[float, ...], shares: tuple[float, float]) -> Cost:
    """As the kernel states it, or its body times its grid; arrays are moved once.

    Loops within it that `loops` says nothing of count once.
    """
    seen, read = shares
    arrays = [v.aval for v in (*eqn.invars, *eqn.outvars) if _has_numbers(v)]
    moved = read * sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
    stated = eqn.params.get("cost_estimate")
    if stated is not None and stated.flops:
        return Cost(float(stated.flops), float(stated.bytes_accessed or moved))
    grid = eqn.params["grid_mapping"].grid
    places = math.prod(n for n in grid if isinstance(n, int))
    body = _cost(_open(eqn.params["jaxpr"]), (*loops, *_ONCE), shares, {})
    return Cost(body.flops * places * seen, moved)


def _inner(params: dict[str, Any]) -> list[Any]:
    """Jaxprs among an equation's parameters; a function's own, not its gradient's."""
    for name in ("call_jaxpr", "fun_jaxpr"):
        if name in params and hasattr(_open(params[name]), "eqns"):
            return [params[name]]
    return [v for v in params.values() if hasattr(_open(v), "eqns")]


def _has_kernel(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name == "pallas_call" or any(map(_has_kernel, _inner(eqn.params)))
        for eqn in _open(jaxpr).eqns
    )


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _has_numbers(var: Any) -> bool:
    """Not a kernel's semaphore, nor a token."""
    return hasattr(getattr(var.aval, "dtype", None), "itemsize")


def _is_literal(var: Any) -> bool:
    return hasattr(var, "val")
