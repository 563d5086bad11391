"""The policy as pure functions over plain nested dicts of arrays.

Two forms of the same weights:

* `params`, for training and scoring: layers stacked (`[N, D, F]`), run by `lax.scan`;
* sampling params, made by `sampling_params`: one dict per layer. Decoding from stacked
  weights or a stacked cache would copy them at every step.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from gru_mem_jax.parallelism import DATA, FSDP, pin, pin_rows
from gru_mem_jax.policy import kernels, rope
from gru_mem_jax.policy.cached_attention import attend_to_cache
from gru_mem_jax.policy.cascade import Trunk
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.kernels import AUTO, BLOCKS, ROW_ATTENTIONS
from gru_mem_jax.policy.key_values import KeyValues
from gru_mem_jax.policy.model import Ends, Layer
from gru_mem_jax.policy.rows_on_mesh import row_attention
from gru_mem_jax.records import check_choice
from gru_mem_jax.shapes import check_shape

Params = dict[str, Any]
Cache = tuple[KeyValues, ...]

# Axis names of each parameter by its last two names; `parallelism` maps them to a mesh.
_AXES = {
    ("ends", "embedding"): ("vocab", "embed"),
    ("head", "kernel"): ("embed", "vocab"),
    ("q", "kernel"): ("embed", "heads"),
    ("k", "kernel"): ("embed", "kv_heads"),
    ("v", "kernel"): ("embed", "kv_heads"),
    ("o", "kernel"): ("heads", "embed"),
    ("gate", "kernel"): ("embed", "ffw"),
    ("up", "kernel"): ("embed", "ffw"),
    ("down", "kernel"): ("ffw", "embed"),
    ("q", "bias"): ("heads",),
    ("k", "bias"): ("kv_heads",),
    ("v", "bias"): ("kv_heads",),
    ("gate", "bias"): ("ffw",),
    ("up", "bias"): ("ffw",),
}


@functools.lru_cache(maxsize=64)
def _definitions(config: PolicyConfig, out_in: bool = False):
    """Graph definitions of the ends and of a layer, and their abstract arrays."""
    split = []
    for module in (Ends, Layer):
        abstract = nnx.eval_shape(
            lambda module=module: module(config, nnx.Rngs(0), out_in)
        )
        definition, state = nnx.split(abstract)
        split.append((definition, nnx.to_pure_dict(state)))
    (ends_def, ends), (layer_def, layer) = split
    return ends_def, layer_def, ends, layer


def _is_sampling_form(params: Params) -> bool:
    return isinstance(params["layers"], tuple | list)


@dataclasses.dataclass(frozen=True)
class Policy:
    """A decoder without weights: hashable, so it can be a static jit argument.

    `params` below is `{"ends": {...}, "layers": {...}}`, a plain nested dict whose
    `layers` leaves have a leading axis N.
    """

    config: PolicyConfig

    # -- parameters ---------------------------------------------------------------

    def init(self, rng: jax.Array, dtype: Any = jnp.float32) -> Params:
        """Random weights: normal(initializer_range), biases 0, norms 1.

        Args:
          rng: a PRNG key.
          dtype: of every leaf.

        Returns:
          params.
        """
        return _init(self.config, jnp.dtype(dtype), rng)

    def abstract_params(self, dtype: Any = jnp.float32) -> Params:
        """Shapes and dtypes of `params`, as a tree of jax.ShapeDtypeStruct."""
        _, _, ends, layer = _definitions(self.config)
        depth = (self.config.num_hidden_layers,)

        def leaf(lead, x):
            return jax.ShapeDtypeStruct(lead + x.shape, jnp.dtype(dtype))

        return {
            "ends": jax.tree.map(functools.partial(leaf, ()), ends),
            "layers": jax.tree.map(functools.partial(leaf, depth), layer),
        }

    def logical_axes(self) -> Params:
        """Axis names of every parameter: the tree of `params`, leaves tuples of str."""

        def names(path, leaf):
            keys = tuple(entry.key for entry in path)
            lead = ("layers",) if keys[0] == "layers" else ()
            rest = len(leaf.shape) - len(lead)
            return lead + _AXES.get(keys[-2:], ("norm",) * rest)

        return jax.tree_util.tree_map_with_path(names, self.abstract_params())

    def sampling_params(self, params: Params, dtype: Any = None) -> Params:
        """The sampling form: one dict per layer, kernels [out, in]. One jitted program.

        Args:
          params: of `init`; the sampling form itself is only cast.
          dtype: of the result; None keeps it.

        Returns:
          {"ends": ..., "layers": (dict, ...)}.
        """
        dtype = None if dtype is None else jnp.dtype(dtype)
        if _is_sampling_form(params):
            return params if dtype is None else _cast(dtype, params)
        return _unstack(self.config.num_hidden_layers, dtype, params)

    # -- training and scoring -----------------------------------------------------

    def hidden(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        reach: jax.Array | None = None,
        *,
        remat: bool = False,
        unroll: int = 1,
        attention: str = BLOCKS,
        frozen_layers: int = 0,
        mesh: Mesh | None = None,
    ) -> jax.Array:
        """Final hidden states (after the last norm) of whole rows.

        Token i of a row sees token j if j <= i < reach[j], and within the window of a
        sliding layer (`attention.visible`): a row may hold several conversations, and
        conversations may share their first tokens.

        Args:
          params: stacked form.
          tokens: int32 [B, L], below V.
          positions: int32 [B, L], of each token in its conversation; padding has -1.
          reach: int32 [B, L], one past the last place of the row that sees the token;
            above its own place. None: each row is one conversation.
          remat: recompute layers in the backward pass instead of storing them.
          unroll: layers per step of the scan.
          attention: "blocks", "splash" or "auto": see `kernels.row_attention`.
          frozen_layers: the first so many layers have no gradient, nor has the
            embedding where tokens go in: no backward pass is made for them.
          mesh: that the program runs on, rows split over data and fsdp; None: one
            device.

        Returns:
          [B, L, D] in the dtype of the params.
        """
        config = self.config
        _check_tokens(tokens, positions, reach)
        check_choice("attention", attention, ROW_ATTENTIONS)
        if attention == AUTO:
            attention = kernels.row_attention(attention, mesh).name
        ends_def, layer_def, _, _ = _definitions(config)
        ends = nnx.merge(ends_def, params["ends"])
        tables = _rope_tables(config, positions)
        rows = row_attention(attention, config, positions, reach, mesh)
        which = (
            np.array(config.rope_index, np.int32),
            np.array(rows.window_index, np.int32),
        )

        def step(x, scanned):
            layer_params, (rope_index, window_index) = scanned
            cos, sin = (table[rope_index] for table in tables)
            x = pin_rows(x, mesh)

            def attend(query, key, value):
                return rows.attend(query, key, value, window_index), None

            x, none = nnx.merge(layer_def, layer_params)(x, cos, sin, attend)
            return pin_rows(x, mesh), none

        if remat:
            step = jax.checkpoint(step, prevent_cse=False)
        x = pin_rows(_embed(ends, tokens, mesh), mesh)
        layers = (params["layers"], which)
        if frozen_layers:
            below = jax.tree.map(lambda w: w[:frozen_layers], layers)
            layers = jax.tree.map(lambda w: w[frozen_layers:], layers)
            x, _ = jax.lax.scan(step, x, jax.lax.stop_gradient(below), unroll=unroll)
            x = jax.lax.stop_gradient(x)
        x, _ = jax.lax.scan(step, x, layers, unroll=unroll)
        return pin_rows(ends.final_norm(x), mesh)

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Output logits, soft-capped where the config says so.

        Args:
          params: either form.
          hidden: [..., D] of `hidden` or `extend`.

        Returns:
          float32 [..., V].
        """
        ends_def = _definitions(self.config, _is_sampling_form(params))[0]
        return nnx.merge(ends_def, params["ends"]).logits(hidden)

    def apply(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        reach: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of whole rows: `logits` of `hidden`, float32 [B, L, V]."""
        hidden = self.hidden(params, tokens, positions, reach)
        return self.logits(params, hidden)

    # -- sampling -----------------------------------------------------------------

    def init_cache(self, slots: int, length: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache: for each layer, keys and values of [S, K, C, H]."""
        config = self.config
        shape = (slots, config.num_key_value_heads, length, config.head_dim)
        return tuple(
            KeyValues.empty(shape, dtype) for _ in range(config.num_hidden_layers)
        )

    def extend(
        self,
        params: Params,
        cache: Cache,
        tokens: jax.Array,
        positions: jax.Array,
        slots: jax.Array | None = None,
        *,
        attend: int,
        fresh: bool = False,
        trunk: Trunk | None = None,
        attention: str = BLOCKS,
        mesh: Mesh | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Extends the cache by new tokens; prefill and decode alike.

        The key of position p is stored at index p of its slot, or behind a trunk of t
        tokens at p - t; a token at p sees the trunk, and the stored keys up to its own
        (within the window of a sliding layer) below index `attend`. Padding has
        position -1: it is neither written nor seen, and its output is arbitrary. If the
        cache is donated it is updated in place.

        Args:
          params: sampling form.
          cache: of `init_cache`.
          tokens: int32 [B, L], below V.
          positions: int32 [B, L], distinct in a row; indices below C and `attend`.
          slots: int32 [B], distinct (rows of padding only may repeat any); None: row b
            is slot b, and B = S.
          attend: static: how many indices of the cache are read, at most C.
          fresh: static: every row starts at index 0, so that beside its trunk the new
            tokens are all there is to see; indices are 0, 1, 2, ... with padding on the
            right.
          trunk: what the rows see before their own keys.
          attention: static: "blocks", or a kernel of `kernels.sampler_attention`:
            "paged" or "cudnn" where each slot has one token, "cudnn" where rows are
            fresh, "splash" where the positions of a row rise by 1 with padding on the
            right. Other rows are read by "blocks", and so are all behind a trunk.
          mesh: static: that slots and heads are split over; None: one device.

        Returns:
          Hidden states after the last norm [B, L, D], and the new cache.
        """
        config = self.config
        _check_tokens(tokens, positions, None)
        ends_def, layer_def, _, _ = _definitions(config, out_in=True)
        ends = nnx.merge(ends_def, params["ends"])
        tables = _rope_tables(config, positions)
        x = ends.embed(tokens)
        at = positions
        if trunk is not None:
            at = jnp.where(positions < 0, -1, positions - trunk.lengths[:, None])
        new_cache = []
        for index, layer_params in enumerate(params["layers"]):

            def cached(query, key, value, index=index):
                layer = cache[index]
                new = KeyValues(*(x.astype(layer.keys.dtype) for x in (key, value)))
                layer = layer.extend(*new, at, slots)
                out = attend_to_cache(
                    query,
                    new,
                    layer,
                    at,
                    slots,
                    attend=attend,
                    fresh=fresh,
                    scale=config.score_scale,
                    softcap=config.attn_logit_softcapping,
                    window=config.windows[index],
                    trunk=None if trunk is None else (trunk, trunk.pool[index]),
                    attention=attention,
                    mesh=mesh,
                )
                return out, layer

            cos, sin = (table[config.rope_index[index]] for table in tables)
            x, stored = nnx.merge(layer_def, layer_params)(x, cos, sin, cached)
            new_cache.append(stored)
        return ends.final_norm(x), tuple(new_cache)


def make_policy(config: PolicyConfig) -> Policy:
    """The functions of a policy of this shape."""
    return Policy(config)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(config: PolicyConfig, dtype: Any, rng: jax.Array) -> Params:
    ends_rng, layers_rng = jax.random.split(rng)

    def arrays(module, key):
        state = nnx.to_pure_dict(nnx.split(module(config, nnx.Rngs(key)))[1])
        return jax.tree.map(lambda x: x.astype(dtype), state)

    keys = jax.random.split(layers_rng, config.num_hidden_layers)
    return {
        "ends": arrays(Ends, ends_rng),
        "layers": jax.vmap(functools.partial(arrays, Layer))(keys),
    }


@functools.partial(jax.jit, static_argnums=0)
def _cast(dtype: Any, params: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype), params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _unstack(depth: int, dtype: Any, params: Params) -> Params:
    def lay_out(path, x):
        x = x if dtype is None else x.astype(dtype)
        return x.T if path[-1].key == "kernel" else x

    def layer(index):
        return jax.tree.map(lambda x: x[index], params["layers"])

    return {
        "ends": jax.tree_util.tree_map_with_path(lay_out, params["ends"]),
        "layers": tuple(
            jax.tree_util.tree_map_with_path(lay_out, layer(i)) for i in range(depth)
        ),
    }


def _embed(ends: Ends, tokens: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Embeddings [B, L, D] of tokens [B, L].

    Where D is split over fsdp, each device looks its part of D up, for the rows of all:
    then activations are exchanged, and not the table and its gradient.
    """
    if mesh is None or ends.embedding.shape[1] % mesh.shape[FSDP]:
        return ends.embed(tokens)
    return pin(ends.embed(pin(tokens, mesh, DATA)), mesh, DATA, None, FSDP)


def _rope_tables(
    config: PolicyConfig, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of each distinct table, float32 [tables, B, L, H/2] each."""
    pairs = [rope.cos_sin(table, config.head_dim, positions) for table in config.ropes]
    cos, sin = zip(*pairs)
    return jnp.stack(cos), jnp.stack(sin)


def _check_tokens(tokens, positions, reach) -> None:
    check_shape("tokens", tokens, (None, None))
    check_shape("positions", positions, tokens.shape)
    if reach is not None:
        check_shape("reach", reach, tokens.shape)
