"""Logprobs of given tokens, without the logits of whole rows.

Logits of 9216 tokens over a vocabulary of 152k take 5.6 GB in float32, and as much
again in the backward pass. Here they exist for one block of tokens at a time, in both
passes, and are not computed for prompts at all.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from gru_mem_jax.parallelism import DATA, FSDP, TENSOR, partition, pin, row_shards
from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.rl.packing import PackedRows
from gru_mem_jax.shapes import check_shape


def token_logprobs(
    policy: Policy,
    params: Params,
    hidden: jax.Array,
    tokens: Array,
    mask: Array | None = None,
    *,
    chunk: int = 512,
    temperature: float = 1.0,
    support: Array | None = None,
    supports: Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Logprob of each token given those before it, and the entropy that it came from.

    Both are those among the ids that the token was drawn from: the others have a logit
    of -inf.

    Wanted tokens are moved to the front of their rows, and blocks without any are
    skipped when the program runs: the cost follows the completions, not the prompts.

    Args:
      policy: whose output head is used.
      params: its params.
      hidden: [B, L, D] of `Policy.hidden`; the state at l - 1 predicts the token at l.
      tokens: int32 [B, L].
      mask: [B, L], nonzero where a logprob is wanted; None: on all tokens but the first
        of each row. The first of a row has none in any case.
      chunk: tokens of a row in a block: `[B, chunk, V]` float32 logits exist at a time.
      temperature: logits are divided by it, as when sampling.
      support: int32 [B, L], row of `supports` that each token was drawn from; looked at
        where there is a table alone.
      supports: bool [M, V], sets of ids, the first of all ids; None: every token was
        drawn from all ids.
      mesh: that the program runs on, rows split over data and fsdp; None: one device.

    Returns:
      logprobs and entropy, float32 [B, L], 0 outside the mask; the entropy carries no
      gradient.

    Raises:
      ValueError: there is a table, and no row of it for each token.
    """

    def of_block(
        params: Params, table: jax.Array | None, states: jax.Array, said: Said
    ) -> tuple[jax.Array, jax.Array]:
        logits = policy.logits(params, states) / temperature
        if table is not None:
            # Rows of a table that no device has a part of: V may be split over tensor.
            logits = jnp.where(table[said[1]], logits, -jnp.inf)
        return _of_logits(logits, said[0])

    said: tuple[Array, ...] = (tokens,)
    if supports is not None:
        if support is None:
            raise ValueError("a table of supports needs a row of it for each token")
        check_shape("supports", supports, (None, policy.config.vocab_size))
        said = (tokens, support)
    logprobs, entropy = _over_rows(
        policy, of_block, params, hidden, said, mask, chunk, mesh, supports
    )
    return logprobs, jax.lax.stop_gradient(entropy)


def likeliest(
    policy: Policy,
    params: Params,
    hidden: jax.Array,
    tokens: Array,
    mask: Array | None = None,
    *,
    chunk: int = 512,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Whether each token is the most likely one, given those before it.

    Args:
      policy, params, hidden, tokens, mask, chunk, mesh: as in `token_logprobs`.

    Returns:
      bool [B, L], false outside the mask.
    """

    def of_block(
        params: Params, _: jax.Array | None, states: jax.Array, said: Said
    ) -> tuple[jax.Array]:
        logits = policy.logits(params, states)
        return ((jnp.argmax(logits, axis=-1) == said[0]).astype(jnp.float32),)

    (right,) = _over_rows(
        policy, of_block, params, hidden, (tokens,), mask, chunk, mesh
    )
    return right > 0


# What is said of tokens, int32 [B, chunk] each: its id, and what else is needed.
Said = tuple[jax.Array, ...]
# Params, a table that is whole on each device, states [B, chunk, D] and what is said of
# the tokens that follow them, to float32 [B, chunk] each.
OfBlock = Callable[[Params, jax.Array | None, jax.Array, Said], tuple[jax.Array, ...]]


def _over_rows(
    policy: Policy,
    of_block: OfBlock,
    params: Params,
    hidden: jax.Array,
    said: tuple[Array, ...],
    mask: Array | None,
    chunk: int,
    mesh: Mesh | None,
    table: Array | None = None,
) -> tuple[jax.Array, ...]:
    """What `of_block` says of wanted tokens; float32 [B, L] each.

    On a mesh each device goes through the blocks of its own rows. It gathers the head
    once for all of them, and adds their gradients up before they are exchanged.
    """
    shape = said[0].shape
    check_shape("hidden", hidden, (*shape, None))
    wanted = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask) > 0
    check_shape("mask", wanted, shape)
    for array in said[1:]:
        check_shape("support", array, shape)
    tokens: Said = tuple(map(jnp.asarray, said))
    whole = None if table is None else jnp.asarray(table)
    if mesh is None or row_shards(mesh) == 1 or len(hidden) % row_shards(mesh):
        under = functools.partial(of_block, params, whole)
        return _over_blocks(under, hidden, tokens, wanted, chunk)

    name = "embedding" if policy.config.tie_word_embeddings else "head"
    axes = policy.logical_axes()["ends"][name]
    head = jax.tree.map(functools.partial(_copies, mesh), params["ends"][name], axes)
    # The other weights are not looked at.
    others = policy.abstract_params()["ends"]

    def of_device(
        table: jax.Array | None,
        head: Any,
        hidden: jax.Array,
        tokens: Said,
        wanted: jax.Array,
    ) -> tuple[jax.Array, ...]:
        ends = others | {name: jax.tree.map(lambda x: x[0], head)}
        under = functools.partial(of_block, {"ends": ends, "layers": {}}, table)
        return _over_blocks(under, hidden, tokens, wanted, chunk)

    own = PartitionSpec((DATA, FSDP))
    outputs: tuple[jax.Array, ...] = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), own, own, own, own),
        out_specs=own,
        axis_names={DATA, FSDP},  # the compiler splits the vocabulary over tensor
        check_vma=False,
    )(whole, head, hidden, tokens, wanted)
    return outputs


def _copies(mesh: Mesh, x: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """A parameter once for each part of the rows, where that part is.

    Its gradients are added up in float32, to where the parameter is.

    Args:
      mesh: that the program runs on.
      x: [...], split by the rules of parameters.
      names: of its axes.

    Returns:
      [parts, ...] in the dtype of `x`.
    """
    axes = partition(x.shape, names, mesh.shape)
    own = [axis if axis == TENSOR else None for axis in axes]

    @jax.custom_vjp
    def copies(x: jax.Array) -> jax.Array:
        whole = pin(x, mesh, *own)
        whole = jnp.broadcast_to(whole, (row_shards(mesh), *x.shape))
        return pin(whole, mesh, (DATA, FSDP), *own)

    def forward(x: jax.Array) -> tuple[jax.Array, None]:
        return copies(x), None

    def backward(_: None, grads: jax.Array) -> tuple[jax.Array]:
        # The barrier keeps the compiler from adding them up in their own dtype.
        wide = jax.lax.optimization_barrier(grads.astype(jnp.float32))
        # First to the devices of fsdp, each its part; then the parts over data.
        wide = wide.reshape(mesh.shape[DATA], mesh.shape[FSDP], *x.shape)
        parts = pin(jnp.sum(wide, axis=1), mesh, DATA, *axes)
        return (pin(jnp.sum(parts, axis=0), mesh, *axes).astype(x.dtype),)

    copies.defvjp(forward, backward)
    return copies(x)


def _over_blocks(
    of_block: Callable[[jax.Array, Said], tuple[jax.Array, ...]],
    hidden: jax.Array,
    tokens: Said,
    wanted: jax.Array,
    chunk: int,
) -> tuple[jax.Array, ...]:
    """The same on one device, block by block.

    Args:
      of_block: states [B, chunk, D] and what is said of their tokens to float32
        [B, chunk].
      hidden, chunk: as in `token_logprobs`.
      tokens: what is said of them, int32 [B, L] each.
      wanted: bool [B, L].
    """
    rows, length = wanted.shape
    wanted = wanted.at[:, 0].set(False)
    chunk = min(chunk, length)
    blocks = -(-length // chunk)

    order = jnp.argsort(~wanted, axis=1, stable=True)
    source = jnp.maximum(order - 1, 0)

    def blocked(x: jax.Array, fill: float) -> jax.Array:
        padding = ((0, 0), (0, blocks * chunk - length), *((0, 0),) * (x.ndim - 2))
        x = jnp.pad(x, padding, constant_values=fill)
        return x.reshape(rows, blocks, chunk, *x.shape[2:]).swapaxes(0, 1)

    scanned = (
        blocked(jnp.take_along_axis(hidden, source[..., None], axis=1), 0),
        tuple(blocked(jnp.take_along_axis(x, order, axis=1), 0) for x in tokens),
        blocked(jnp.take_along_axis(wanted, order, axis=1), False),
    )

    def compute(
        states: jax.Array, said: Said, inside: jax.Array
    ) -> tuple[jax.Array, ...]:
        return tuple(jnp.where(inside, x, 0) for x in of_block(states, said))

    def skip(states: jax.Array, said: Said, inside: jax.Array) -> tuple[jax.Array, ...]:
        shapes = jax.eval_shape(of_block, states, said)
        return tuple(jnp.zeros(x.shape, x.dtype) for x in shapes)

    def block(_: None, xs: tuple[Any, ...]) -> tuple[None, tuple[jax.Array, ...]]:
        return None, jax.lax.cond(jnp.any(xs[2]), compute, skip, *xs)

    # Checkpointed around the condition: only the block's hidden states are kept.
    block = jax.checkpoint(block, prevent_cse=False)
    _, outputs = jax.lax.scan(block, None, scanned)

    back = jnp.argsort(order, axis=1)

    def restored(x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1).reshape(rows, blocks * chunk)[:, :length]
        return jnp.take_along_axis(x, back, axis=1)

    return tuple(map(restored, outputs))


def _of_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float32 [B, C, V] and int32 [B, C] to logprobs and entropies, float32 [B, C]."""
    log_total = jax.nn.logsumexp(logits, axis=-1)
    # A sum over a comparison, not a gather: it partitions where V is sharded.
    vocab = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    chosen = jnp.sum(jnp.where(vocab == targets[..., None], logits, 0.0), axis=-1)
    fixed = jax.lax.stop_gradient(logits)
    fixed_total = jax.lax.stop_gradient(log_total)
    probabilities = jnp.exp(fixed - fixed_total[..., None])
    # Logits of -inf have no part in it: 0 * -inf would be NaN.
    mean = jnp.sum(jnp.where(probabilities > 0, probabilities * fixed, 0.0), axis=-1)
    return chosen - log_total, fixed_total - mean


def row_logprobs(
    policy: Policy,
    params: Params,
    rows: PackedRows,
    *,
    chunk: int = 512,
    temperature: float = 1.0,
    remat: bool = False,
    unroll: int = 1,
    attention: str = "blocks",
    supports: Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Logprobs and entropies of the learned tokens of packed rows.

    Args:
      policy: the policy.
      params: its params.
      rows: a micro-batch [B, L].
      chunk, temperature: as in `token_logprobs`.
      remat: compute layers again in the backward pass instead of storing them.
      unroll: layers in one step of the scan over layers.
      attention, mesh: as in `Policy.hidden`.
      supports: the table of `rows.support`, as in `token_logprobs`.

    Returns:
      logprobs and entropy, float32 [B, L], 0 on prompts, padding and forced tokens.
    """
    layout = jax.tree.map(jnp.asarray, (rows.tokens, rows.positions, rows.reach))
    hidden = policy.hidden(
        params, *layout, remat=remat, unroll=unroll, attention=attention, mesh=mesh
    )
    return token_logprobs(
        policy,
        params,
        hidden,
        rows.tokens,
        rows.completion_mask,
        chunk=chunk,
        temperature=temperature,
        support=rows.support,
        supports=supports,
        mesh=mesh,
    )
