"""The decoder as flax modules: one layer; embedding, final norm and head.

`functional` loops over layers, masks and caches, on plain dicts of arrays. Modules are
split into definition and arrays once and merged again while a program is traced, so
they cost nothing at run time.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.rope import rotate

# (query [B, L, Q, H], key [B, L, K, H], value [B, L, K, H]) -> ([B, L, Q * H], extra)
AttendFn = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class RMSNorm(nnx.Module):
    """Root-mean-square norm (Zhang & Sennrich, arXiv 1910.07467), in float32."""

    def __init__(self, size: int, eps: float, offset: float):
        self.eps = eps
        self.offset = offset
        self.scale = nnx.Param(jnp.full((size,), 1.0 - offset))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., size] to [..., size] in the dtype of `x`."""
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        scale = self.scale[...].astype(jnp.float32) + self.offset
        scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
        return (wide * jax.lax.rsqrt(mean_square + self.eps) * scale).astype(x.dtype)


class Linear(nnx.Module):
    """x @ kernel (+ bias), with the kernel [in, out], or [out, in] for sampling.

    Measured on CPU with 8 and 32 rows (jax 0.10.2): [out, in] takes between a third
    and all of the time of [in, out], most where the output is narrow.
    """

    def __init__(self, size_in, size_out, bias, config, rngs, out_in=False):
        init = nnx.initializers.normal(config.initializer_range)
        kernel = init(rngs.params(), (size_in, size_out))
        self.kernel = nnx.Param(kernel.T if out_in else kernel)
        self.bias = nnx.Param(jnp.zeros((size_out,))) if bias else None
        self.out_in = out_in

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] to [..., out] in the dtype of `x`."""
        # bf16 products that also sum in bf16 are slow on CPU and coarse anywhere.
        out = _product(x, self.kernel[...], self.out_in)
        if self.bias is not None:
            bias = self.bias[...].astype(jnp.float32)
            out = out + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
        return out.astype(x.dtype)


class Attention(nnx.Module):
    """Projections, head norms and rotation; the caller's `attend` masks."""

    def __init__(self, config: PolicyConfig, rngs: nnx.Rngs, out_in: bool = False):
        self.head_dim = config.head_dim
        width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q = Linear(width, heads, config.qkv_bias, config, rngs, out_in)
        self.k = Linear(width, keys, config.qkv_bias, config, rngs, out_in)
        self.v = Linear(width, keys, config.qkv_bias, config, rngs, out_in)
        self.o = Linear(heads, width, config.attention_bias, config, rngs, out_in)
        # Assigned once: nnx fixes with the first value what kind of attribute it is.
        normed = config.traits.qk_norm
        self.q_norm = _norm(config, config.head_dim) if normed else None
        self.k_norm = _norm(config, config.head_dim) if normed else None

    def __call__(self, x, cos, sin, attend: AttendFn) -> tuple[jax.Array, Any]:
        split = (*x.shape[:-1], -1, self.head_dim)
        query = self.q(x).reshape(split)
        key = self.k(x).reshape(split)
        value = self.v(x).reshape(split)
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        out, extra = attend(rotate(query, cos, sin), rotate(key, cos, sin), value)
        return self.o(out), extra


class MLP(nnx.Module):
    """Gated feed-forward (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: PolicyConfig, rngs: nnx.Rngs, out_in: bool = False):
        width, ffw = config.hidden_size, config.intermediate_size
        self.activation = config.hidden_act
        self.gate = Linear(width, ffw, config.mlp_bias, config, rngs, out_in)
        self.up = Linear(width, ffw, config.mlp_bias, config, rngs, out_in)
        self.down = Linear(ffw, width, config.mlp_bias, config, rngs, out_in)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(_ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """Pre-norm residual block; Gemma also norms what each half adds."""

    def __init__(self, config: PolicyConfig, rngs: nnx.Rngs, out_in: bool = False):
        self.attn_norm = _norm(config, config.hidden_size)
        self.attn = Attention(config, rngs, out_in)
        self.mlp_norm = _norm(config, config.hidden_size)
        self.mlp = MLP(config, rngs, out_in)
        normed = config.traits.post_norms
        self.post_attn_norm = _norm(config, config.hidden_size) if normed else None
        self.post_mlp_norm = _norm(config, config.hidden_size) if normed else None

    def __call__(
        self, x: jax.Array, cos: jax.Array, sin: jax.Array, attend: AttendFn
    ) -> tuple[jax.Array, Any]:
        """One layer.

        Args:
          x: [B, L, D].
          cos, sin: float32 [B, L, H/2].
          attend: from rotated query, key and value to the heads' outputs.

        Returns:
          [B, L, D], and the second value that `attend` returned.
        """
        out, extra = self.attn(self.attn_norm(x), cos, sin, attend)
        if self.post_attn_norm is not None:
            out = self.post_attn_norm(out)
        x = x + out
        out = self.mlp(self.mlp_norm(x))
        if self.post_mlp_norm is not None:
            out = self.post_mlp_norm(out)
        return x + out, extra


class Ends(nnx.Module):
    """Token embedding below the layers; final norm and output head above them."""

    def __init__(self, config: PolicyConfig, rngs: nnx.Rngs, out_in: bool = False):
        width, vocab = config.hidden_size, config.vocab_size
        init = nnx.initializers.normal(config.initializer_range)
        self.embed_scale = width**0.5 if config.traits.scaled_embedding else None
        self.softcap = config.final_logit_softcapping
        self.embedding = nnx.Param(init(rngs.params(), (vocab, width)))
        self.final_norm = _norm(config, width)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(width, vocab, False, config, rngs, out_in)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """int32 [B, L] to [B, L, D]; JAX clamps ids of V and above silently."""
        x = self.embedding[...][tokens]
        if self.embed_scale is not None:  # rounded to the dtype first, as Gemma's is
            x = x * jnp.asarray(self.embed_scale, x.dtype)
        return x

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] to float32 [..., V]."""
        if self.head is not None:
            logits = _product(hidden, self.head.kernel[...], self.head.out_in)
        else:
            logits = _product(hidden, self.embedding[...], out_in=True)
        if self.softcap is not None:
            logits = jnp.tanh(logits / self.softcap) * self.softcap
        return logits


def _norm(config: PolicyConfig, size: int) -> RMSNorm:
    return RMSNorm(size, config.rms_norm_eps, config.traits.norm_offset)


def _product(x: jax.Array, kernel: jax.Array, out_in: bool) -> jax.Array:
    """x [..., in] times a kernel [in, out] (or [out, in]); float32 [..., out].

    As one matrix: with two leading axes the kernel's gradient contracts over both,
    which takes several times as long on CPU.
    """
    flat = x.reshape(-1, x.shape[-1])
    usual = functools.partial(_right_product, out_in=out_in)
    if out_in and len(flat) <= _THIN:
        out = jax.lax.platform_dependent(flat, kernel, cpu=_left_product, default=usual)
    else:
        out = usual(flat, kernel)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _right_product(x: jax.Array, kernel: jax.Array, out_in: bool) -> jax.Array:
    contract = (((1,), (int(out_in),)), ((), ()))
    return jax.lax.dot_general(x, kernel, contract, preferred_element_type=jnp.float32)


def _left_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same for kernels [out, in]; a third faster for a few rows on CPU."""
    contract = (((1,), (1,)), ((), ()))
    out = jax.lax.dot_general(kernel, x, contract, preferred_element_type=jnp.float32)
    # The barrier keeps the compiler from swapping the operands back.
    return jax.lax.optimization_barrier(out).T


# Rows up to which the kernel is the left operand.
_THIN = 64
