"""What a training run needs of each device's memory, by formula and without devices.

With W the bytes of all params in float32, cut as the mesh cuts them, and AdamW:

    params W, optimiser 2 W, gradients 2 W (the sum, and the micro-batch's own)
    compute copy, reference, behaviour   W / 2 each in bfloat16
    sampler   all params and its cache in its own dtype, on each device; or cut over
        the EngineConfig.tensor devices of an engine. Where it is not resident it and
        what an update needs besides (gradients, compute copy, activations, gathered
        weights) take turns.
    activations, of R rows of L tokens on a device (N layers of width D, Q and K heads
    of size H, feed-forward F; b bytes a number):
        layer inputs      R L N D b              with remat; else all that a layer keeps
        one layer         2 R L (5 D + 3 (Q + K) H + 3 F) b
        scores            3 R Q q k 4, blocks of q queries and k keys; with splash R
                          times the masks of a row
        logits            3 R chunk V 4
    gathered weights      two layers and the embedding, where weights are cut

The compiler orders and reuses buffers as it sees fit: expect the truth within some
twenty percent where weights dominate, and within a factor of two where they do not.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import FSDP, MeshConfig
from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.policy.row_attention import block_size
from gru_mem_jax.policy.splash import mask_bytes
from gru_mem_jax.rl import lora
from gru_mem_jax.rl.optimizer import LearnerConfig, make_optimizer, optimizer_shardings
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.footprint import (
    cache_bytes,
    choose_tensor,
    engine_dtype,
    shard_sizes,
    size_text,
    weight_bytes,
)

# What is there from the first step to the last, in arrays of a known size.
_HELD = (
    "params",
    "optimizer",
    "frozen",
    "reference",
    "sampler_params",
    "sampler_cache",
)


def memory_estimate(
    policy: Policy,
    config: LearnerConfig,
    mesh: MeshConfig,
    engine: EngineConfig | None = None,
    *,
    reference: bool = False,
    behaviour: bool = False,
    dtype: Any = None,
) -> dict[str, int]:
    """Bytes that a device needs, by what they are for.

    Args:
      policy: without weights.
      config: of the learner.
      mesh: without -1.
      engine: sampler on the same devices, of 1 where `tensor` is None; None: elsewhere.
      reference: whether a reference policy is held (beta above 0).
      behaviour: whether the weights of the rollouts in flight are held.
      dtype: of the compute and the sampler; None: the configurations'.

    Returns:
      Name to bytes, and "total".
    """
    compute = jnp.dtype(dtype or config.dtype).itemsize
    sizes = {"data": mesh.data, "fsdp": mesh.fsdp, "tensor": mesh.tensor}
    shapes, axes = policy.abstract_params(), policy.logical_axes()
    cut = shard_sizes(shapes, axes, sizes)
    numbers = sum(jax.tree.leaves(cut))
    trained_shapes, trained_cut = shapes, cut
    if config.lora is not None:
        trained_shapes = lora.abstract_adapters(policy, config.lora)
        adapter_axes = lora.adapter_axes(policy, config.lora)
        trained_cut = shard_sizes(trained_shapes, adapter_axes, sizes)
    trained = 4 * sum(jax.tree.leaves(trained_cut))
    opt_shapes = jax.eval_shape(make_optimizer(config).init, trained_shapes)
    opt_cut = optimizer_shardings(opt_shapes, trained_shapes, trained_cut, None)
    result = {
        "params": trained,
        "optimizer": sum(
            4 * (math.prod(leaf.shape) if size is None else size)
            for leaf, size in zip(
                jax.tree.leaves(opt_shapes),
                jax.tree.leaves(opt_cut, is_leaf=lambda x: x is None),
                strict=True,
            )
        ),
        "gradients": 2 * trained,
    }
    if config.lora is not None:
        # The merged copy, its gradient before it is projected, and what is frozen.
        depth = policy.config.num_hidden_layers
        layers = sum(jax.tree.leaves(cut["layers"]))
        below = layers * config.lora.first_layer(depth) // depth
        result["frozen"] = compute * numbers
        result["compute_copy"] = compute * (2 * numbers - below)
    elif compute != 4:
        result["compute_copy"] = compute * numbers
    if reference and config.lora is None:
        result["reference"] = compute * numbers
    if behaviour:
        result["behaviour"] = compute * numbers
    result |= _activations(policy, config, mesh, compute)
    if any(size > 1 for size in sizes.values()):
        result["gathered"] = _gathered(shapes, axes, sizes, compute)
    total = sum(result.values())
    if engine is not None:
        sampler = _sampler(policy, engine, dtype)
        result |= sampler
        held = sum(result.get(name, 0) for name in _HELD)
        total += sum(sampler.values())
        if not engine.resident:
            total = max(held, total - sum(sampler.values()))
    return result | {"total": total}


def check_memory(estimate: dict[str, int], limit: int | None) -> str | None:
    """Refuses a run that can never fit, and doubts one that may not.

    Args:
      estimate: of `memory_estimate`.
      limit: bytes that the device has; None: unknown.

    Returns:
      A line of doubt where the formula's total is above the limit; None: it fits.

    Raises:
      InputError: what is surely held at the same time (weights, optimiser, and the
        sampler's weights and cache) takes more than there is.
    """
    if limit is None or estimate["total"] <= limit:
        return None
    text = f"memory by formula, {describe_memory(estimate)}"
    names = [name for name in _HELD if name in estimate]
    held = sum(estimate[name] for name in names)
    if held <= limit:
        return f"{text}: more than the {size_text(limit)} that there are; may not fit"
    raise InputError(
        f"a device needs {size_text(held)} for {', '.join(names)} alone, more than "
        f"the {size_text(limit)} that it has ({text}); lower the engine's slots or "
        "max_length (chunk_size and the budgets), or spread the policy over more "
        "devices (MeshConfig.fsdp)"
    )


def _activations(
    policy: Policy, config: LearnerConfig, mesh: MeshConfig, compute: int
) -> dict[str, int]:
    shape = policy.config
    tokens = config.rows_per_device * config.row_tokens
    heads = shape.num_attention_heads + shape.num_key_value_heads
    inner = 3 * heads * shape.head_dim + 3 * shape.intermediate_size
    layer = tokens * (5 * shape.hidden_size + inner // mesh.tensor) * compute
    kept = tokens * shape.hidden_size * compute if config.remat else layer
    queries, keys = block_size(config.row_tokens)
    own_heads = max(1, shape.num_attention_heads // mesh.tensor)
    scores = 3 * queries * keys * own_heads * 4
    if config.attention == "splash":
        scores = mask_bytes(config.row_tokens)
    chunk = min(config.logits_chunk, config.row_tokens) * config.rows_per_device
    learned = shape.num_hidden_layers  # layers that have a backward pass
    if config.lora is not None:
        learned -= config.lora.first_layer(learned)
    return {
        "layer_inputs": learned * kept,
        "one_layer": 2 * layer,
        "scores": config.rows_per_device * scores,
        "logits": 3 * chunk * shape.vocab_size * 4 // mesh.tensor,
    }


def _gathered(shapes, axes, sizes, compute: int) -> int:
    whole = shard_sizes(shapes, axes, sizes | {FSDP: 1})
    layers = sum(jax.tree.leaves(whole["layers"]))
    depth = jax.tree.leaves(shapes["layers"])[0].shape[0]
    return compute * (2 * layers // depth + sum(jax.tree.leaves(whole["ends"])))


def _sampler(policy: Policy, engine: EngineConfig, dtype) -> dict[str, int]:
    dtype, tensor = dtype or engine_dtype(engine), engine.tensor or 1
    return {
        "sampler_params": weight_bytes(policy, dtype, tensor),
        "sampler_cache": cache_bytes(policy.config, engine, dtype, tensor),
    }


def planned_engine(
    engine: EngineConfig,
    devices: Sequence[Any],
    estimate: Callable[[EngineConfig], dict[str, int]],
    limit: int | None,
) -> EngineConfig:
    """The engine with its `tensor`: as few devices as hold it beside the learner.

    Args:
      engine: sizes of each engine.
      devices: of the learner.
      estimate: `memory_estimate` of the run with such an engine.
      limit: bytes that a device has; None: unknown.
    """
    if engine.tensor is not None:
        return engine

    def of(tensor: int) -> EngineConfig:
        return dataclasses.replace(engine, tensor=tensor)

    return of(choose_tensor(devices, lambda n: estimate(of(n))["total"], limit))


def describe_memory(estimate: dict[str, int]) -> str:
    """In one line, the largest first: "total 3.1 GiB: params 1.0 GiB, ..."."""
    parts = sorted(estimate.items(), key=lambda item: (item[0] != "total", -item[1]))
    texts = [f"{name} {size_text(value)}" for name, value in parts if value]
    return f"{texts[0]}: {', '.join(texts[1:])}"
