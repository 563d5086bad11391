"""Multi-Conv DAPO as sums over tokens.

arXiv 2602.10560, Eq. 3; DAPO, arXiv 2503.14476. With pi_old the policy that sampled:

    rho = pi_theta(token) / pi_old(token)
    l   = min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A)
    J   = sum over all tokens of (l - beta KL(pi_theta || pi_ref)) / number of tokens

Every function returns TokenSum(total, count). One division by the count of the whole
step, at the end, is exact under padding, packing, micro-batches and sharding.

A mask is above 0 on tokens that are learned. The loss, KL included, takes each of them
as often as the mask says, in total and in count; what is only reported of them, as
entropies, ratios and gaps, takes each once.
"""

import dataclasses

import jax
import jax.numpy as jnp

from gru_mem_jax.records import check_number, plain_numbers
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.shapes import check_shape

# exp() of more than 88 is no float32; a ratio beyond e^20 has lost its meaning anyway.
_MAX_LOG_RATIO = 20.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenSum:
    """A sum over tokens, and how many they are.

    Attributes:
      total: float32 [].
      count: float32 [].
    """

    total: Array
    count: Array

    def __add__(self, other: "TokenSum") -> "TokenSum":
        return TokenSum(self.total + other.total, self.count + other.count)

    def mean(self) -> jax.Array:
        """total / count; 0 where nothing was counted, also in the gradient."""
        return jnp.asarray(self.total) / jnp.maximum(self.count, 1)

    def value(self) -> float | None:
        """The mean on the host; None where nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else None


def token_sum(values: Array, mask: Array) -> TokenSum:
    """Sums values over a mask, each once; values outside have no effect, not even NaN.

    Args:
      values: float32 [...].
      mask: bool or float32 of the same shape, above 0 on what is counted.
    """
    check_shape("mask", mask, values.shape)
    inside = jnp.asarray(mask) > 0
    return TokenSum(
        jnp.sum(jnp.where(inside, values, 0.0), dtype=jnp.float32),
        jnp.sum(inside, dtype=jnp.float32),
    )


def weighted_sum(values: Array, weights: Array) -> TokenSum:
    """Sums weights x values, and weights; as `token_sum` where weights are 0 and 1.

    Args:
      values: float32 [...]; where the weight is 0 they have no effect, not even NaN.
      weights: bool or float32 of the same shape, at least 0.
    """
    check_shape("weights", weights, values.shape)
    weights = jnp.asarray(weights).astype(jnp.float32)
    inside = jnp.where(weights > 0, values, 0.0)  # before the product: 0 * NaN is NaN
    return TokenSum(
        jnp.sum(inside * weights, dtype=jnp.float32),
        jnp.sum(weights, dtype=jnp.float32),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The objective's constants.

    The defaults are those of the stable public recipe of this kind of training: clipped
    at 0.2 on both sides, KL (k3) of weight 1e-3. So are those elsewhere: no division by
    the group's standard deviation (`AdvantageConfig`), answers that match exactly
    (`data.Example.scoring`), the whole distribution sampled (`agent.SamplingConfig`:
    top-p 1). The paper's eps_high is DAPO's 0.28: gin/experiments/paper.gin sets it.

    Attributes:
      eps_low, eps_high: how far the ratio may fall below and rise above 1.
      dual_clip: c, at least 1: a token of negative advantage loses no more than c |A|
        (Ye et al., arXiv 1912.09729); None: no such bound.
      beta: weight of the KL to the reference policy; 0: no reference is needed.
    """

    eps_low: float = 0.2
    eps_high: float = 0.2
    dual_clip: float | None = None
    beta: float = 1e-3

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_number("eps_low", self.eps_low, 0, 1)
        check_number("eps_high", self.eps_high, 0, 1e6)
        check_number("beta", self.beta, 0, 1e6)
        if self.dual_clip is not None:
            check_number("dual_clip", self.dual_clip, 1, 1e6)


def policy_loss(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    config: ObjectiveConfig,
) -> tuple[TokenSum, dict[str, TokenSum]]:
    """The clipped surrogate -l, and how often it was clipped.

    Args:
      logprobs: float32 [B, L] under the policy that is trained.
      old_logprobs: float32 [B, L] under the policy that sampled; no gradient.
      advantages: float32 [B, L].
      mask: [B, L], above 0 on learned tokens: their weights.
      config: eps_low, eps_high and dual_clip.

    Returns:
      The loss; and "ratio" (mean of rho), "clip_high" and "clip_low" (share of tokens
      that have no gradient since rho left its bounds in the advantage's direction) and
      "dual_clip" (the same for the bound below).
    """
    ratio = jnp.exp(_log_ratio(logprobs, jax.lax.stop_gradient(old_logprobs)))
    clipped = jnp.clip(ratio, 1 - config.eps_low, 1 + config.eps_high)
    gain = jnp.minimum(ratio * advantages, clipped * advantages)
    bounded: Array = jnp.zeros(ratio.shape, bool)
    if config.dual_clip is not None:
        floor = config.dual_clip * advantages
        bounded = (advantages < 0) & (gain < floor)
        gain = jnp.where(bounded, floor, gain)
    events = {
        "ratio": ratio,
        "clip_high": (advantages > 0) & (ratio > 1 + config.eps_high),
        "clip_low": (advantages < 0) & (ratio < 1 - config.eps_low),
        "dual_clip": bounded,
    }
    return weighted_sum(-gain, mask), {
        name: token_sum(jax.lax.stop_gradient(event), mask)
        for name, event in events.items()
    }


def nll(logprobs: Array, mask: Array) -> TokenSum:
    """Negative log-likelihood of the tokens in the mask, in nats.

    The gradient of `policy_loss` on policy at advantage 1.

    Args:
      logprobs: float32 [...]; what lies outside the mask is not looked at.
      mask: of the same shape, above 0 on tokens to learn: their weights.
    """
    return weighted_sum(-jnp.asarray(logprobs), mask)


def kl_k3(logprobs: Array, ref_logprobs: Array) -> jax.Array:
    """Per-token estimate of KL(pi_theta || pi_ref), of low variance and never negative.

        k3 = r - 1 - log r,   r = pi_ref / pi_theta

    (Schulman, "Approximating KL divergence", 2020.)

    Args:
      logprobs: float32 [...], of tokens that pi_theta sampled.
      ref_logprobs: float32 [...]; no gradient.

    Returns:
      float32 [...].
    """
    log_ratio = _log_ratio(jax.lax.stop_gradient(ref_logprobs), logprobs)
    # expm1: near the reference, exp(x) - 1 - x would lose all its digits.
    return jnp.expm1(log_ratio) - log_ratio


def dapo_objective(
    logprobs: Array,
    old_logprobs: Array,
    advantages: Array,
    mask: Array,
    config: ObjectiveConfig,
    *,
    ref_logprobs: Array | None = None,
    entropy: Array | None = None,
) -> tuple[TokenSum, dict[str, TokenSum]]:
    """The loss -J as a sum over tokens, and what to report beside it.

    Args:
      logprobs, old_logprobs, advantages, mask: [B, L], as in `policy_loss`.
      config: constants.
      ref_logprobs: float32 [B, L] under the reference policy; needed if beta > 0.
      entropy: float32 [B, L] of the policy's distributions, to report.

    Returns:
      The loss: divide its gradient's sum over all micro-batches by the sum of counts.
      And the metrics of `policy_loss`, with "policy_loss", and "kl" and "entropy" where
      their inputs are given.

    Raises:
      ValueError: beta > 0 without ref_logprobs, or shapes differ.
    """
    for name, array in (
        ("old_logprobs", old_logprobs),
        ("advantages", advantages),
        ("mask", mask),
    ):
        check_shape(name, array, logprobs.shape)
    loss, metrics = policy_loss(logprobs, old_logprobs, advantages, mask, config)
    metrics["policy_loss"] = loss
    if ref_logprobs is not None:
        check_shape("ref_logprobs", ref_logprobs, logprobs.shape)
        kl = weighted_sum(kl_k3(logprobs, ref_logprobs), mask)
        metrics["kl"] = kl
        loss = TokenSum(loss.total + config.beta * kl.total, loss.count)
    elif config.beta > 0:
        raise ValueError("beta > 0 needs ref_logprobs")
    if entropy is not None:
        check_shape("entropy", entropy, logprobs.shape)
        metrics["entropy"] = token_sum(entropy, mask)
    return loss, jax.lax.stop_gradient(metrics)


def logprob_gap(
    logprobs: Array, sampler_logprobs: Array, mask: Array
) -> tuple[TokenSum, jax.Array]:
    """How far the learner is from the sampler on the tokens that were sampled.

    Large where the sampler has other weights, another precision or another prompt.

    Args:
      logprobs: float32 [B, L], the learner's before its step.
      sampler_logprobs: float32 [B, L].
      mask: [B, L], above 0 on learned tokens.

    Returns:
      Mean of the absolute difference as a TokenSum, and its maximum, float32 [].
    """
    gap = jnp.abs(jnp.asarray(logprobs) - sampler_logprobs)
    inside = jnp.asarray(mask) > 0
    return token_sum(gap, mask), jnp.max(jnp.where(inside, gap, 0.0))


def _log_ratio(logprobs: Array, other: Array) -> jax.Array:
    difference = jnp.asarray(logprobs) - other
    return jnp.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
