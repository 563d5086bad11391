"""The loss and the optimiser step, as functions of arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gru_mem_jax.policy.functional import Params, Policy
from gru_mem_jax.sft.config import OptimizerConfig
from gru_mem_jax.sft.packing import PackedBatch


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate of each step: warm-up, constant, linear fall at the end."""
    start = steps - round(steps * config.decay_share)

    def rate(step):
        rise = jnp.minimum(1.0, (step + 1) / max(1, config.warmup_steps))
        fallen = jnp.clip((step - start) / max(1, steps - start), 0.0, 1.0)
        return config.learning_rate * rise * (1 - (1 - config.final_share) * fallen)

    return rate


def make_optimizer(
    config: OptimizerConfig, params: Params, steps: int
) -> optax.GradientTransformation:
    """AdamW with the structured start's own rates.

    Its embedding has variance 1 where variance 1/D is usual, and its final norm is
    D^-1/2 where 1 is usual, so that the residual stream begins at variance 1 without a
    multiplier that no checkpoint format has. Adam's steps do not follow such a change
    of scale: the two rates do, by the same factors.
    """
    width = params["ends"]["embedding"].shape[1] ** 0.5

    def factor(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] == "embedding":
            return width
        return 1 / width if "final_norm" in names else 1.0

    factors = jax.tree_util.tree_map_with_path(factor, params)
    kernels = jax.tree_util.tree_map_with_path(
        lambda path, leaf: path[-1].key == "kernel", params
    )

    def scaled(updates, params=None):
        del params
        return jax.tree.map(lambda u, f: u * f, updates, factors)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.b1, b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        optax.stateless(scaled),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )


def completion_logits(policy: Policy, params: Params, batch: PackedBatch) -> jax.Array:
    """float32 [M, V]: the logits that predict the targets; no others are made."""
    hidden = policy.hidden(
        params,
        batch.tokens,
        batch.positions,
        batch.segment_ids,
        unroll=policy.config.num_hidden_layers,
    )
    hidden = hidden.reshape(-1, hidden.shape[-1])[batch.where]
    return policy.logits(params, hidden)


def completion_loss(policy: Policy, params: Params, batch: PackedBatch) -> jax.Array:
    """Mean negative log likelihood of the batch's targets, in nats; float32 []."""
    logits = completion_logits(policy, params, batch)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights)


Step = Callable[[Params, Any, PackedBatch], tuple[Params, Any, dict[str, jax.Array]]]


def make_step(policy: Policy, optimizer: optax.GradientTransformation) -> Step:
    """A jitted (params, state, batch) -> (params, state, metrics); both are donated."""

    def step(params, state, batch):
        loss, grads = jax.value_and_grad(completion_loss, argnums=1)(
            policy, params, batch
        )
        updates, state = optimizer.update(grads, state, params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "target_tokens": jnp.sum(batch.weights),
        }
        return optax.apply_updates(params, updates), state, metrics

    return jax.jit(step, donate_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def correct_targets(policy: Policy, params: Params, batch: PackedBatch) -> jax.Array:
    """bool [M]: whether the most likely token is the target; padding is arbitrary."""
    logits = completion_logits(policy, params, batch)
    return jnp.argmax(logits, axis=-1) == batch.targets
