"""The objective's terms: by hand, and against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.errors import InputError
from gru_mem_jax.rl import objective as o

DAPO = o.ObjectiveConfig(eps_high=0.28)


def loss_of(ratio, advantage, config=DAPO):
    """Loss of one token, its gradient by the logprob, and its events."""

    def loss(logprobs):
        total, events = o.policy_loss(
            logprobs, np.zeros(1), np.array([advantage]), np.ones(1), config
        )
        return total.total, events

    (value, events), gradient = jax.value_and_grad(loss, has_aux=True)(
        jnp.log(jnp.array([ratio], jnp.float32))
    )
    return (
        float(value),
        float(gradient[0]),
        {k: float(v.total) for k, v in events.items()},
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "event"),
    [
        # The gradient of -rho A by the logprob is -rho A; 0 where it is clipped.
        (1.0, 2.0, -2.0, -2.0, None),
        (1.0, -2.0, 2.0, 2.0, None),
        (1.25, 2.0, -2.5, -2.5, None),  # inside: clip-higher allows 1.28
        (1.5, 2.0, -2.56, 0.0, "clip_high"),
        (0.5, 2.0, -1.0, -1.0, None),  # it may always come back
        (0.5, -2.0, 1.6, 0.0, "clip_low"),
        (0.85, -2.0, 1.7, 1.7, None),
        (1.5, -2.0, 3.0, 3.0, None),
        (1.5, 0.0, 0.0, 0.0, None),
        (0.5, 0.0, 0.0, 0.0, None),
    ],
)
def test_one_token(ratio, advantage, loss, gradient, event):
    got = loss_of(ratio, advantage)
    assert got[0] == pytest.approx(loss, rel=1e-6, abs=1e-7)
    assert got[1] == pytest.approx(gradient, rel=1e-6, abs=1e-7)
    happened = {k for k, v in got[2].items() if k != "ratio" and v}
    assert happened == ({event} if event else set())
    assert got[2]["ratio"] == pytest.approx(ratio, rel=1e-6)


def test_dual_clip_bounds_what_a_bad_token_costs():
    """c = 3: at ratio 5 and advantage -2 the loss is 6, not 10, and stands still."""
    config = o.ObjectiveConfig(eps_high=0.28, dual_clip=3.0)
    loss, gradient, events = loss_of(5.0, -2.0, config)
    assert (loss, gradient, events["dual_clip"]) == (6.0, 0.0, 1.0)
    assert loss_of(5.0, -2.0)[0] == pytest.approx(10)
    # Below the bound, and for good tokens, it changes nothing.
    assert loss_of(2.0, -2.0, config)[:2] == pytest.approx((4, 4))
    assert loss_of(5.0, 2.0, config)[0] == pytest.approx(-2.56)


def test_k3_by_hand():
    """r = pi_ref / pi = 2: 2 - 1 - log 2; r = 1/2: 1/2 - 1 + log 2; r = 1: 0."""
    got = o.kl_k3(jnp.zeros(3), jnp.log(jnp.array([2.0, 0.5, 1.0])))
    expected = [1 - math.log(2), math.log(2) - 0.5, 0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_k3_is_an_unbiased_estimate_of_the_kl():
    rng = np.random.default_rng(0)
    policy, reference = rng.dirichlet(np.ones(5), 2)
    kl = np.sum(policy * np.log(policy / reference))
    k3 = o.kl_k3(jnp.log(jnp.asarray(policy)), jnp.log(jnp.asarray(reference)))
    assert np.sum(policy * np.asarray(k3)) == pytest.approx(kl, rel=1e-5)


def test_k3_keeps_its_digits_near_the_reference():
    """At a log ratio of 1e-3 it is 5.0017e-7; exp(x) - 1 - x in float32 is not."""
    got = o.kl_k3(jnp.zeros(1), jnp.full(1, 1e-3))
    assert float(got[0]) == pytest.approx(5.00166708e-7, rel=1e-3)
    gradient = jax.grad(lambda x: o.kl_k3(x, jnp.zeros(1)).sum())(jnp.full(1, 1e-3))
    # d k3 / d logprob = 1 - r
    assert float(gradient[0]) == pytest.approx(1 - math.exp(-1e-3), rel=1e-3)


def random_tokens(seed, shape=(3, 7)):
    rng = np.random.default_rng(seed)
    arrays = {
        "logprobs": -rng.exponential(1, shape),
        "old_logprobs": -rng.exponential(1, shape),
        "advantages": rng.normal(size=shape),
        "ref_logprobs": -rng.exponential(1, shape),
        "entropy": rng.exponential(1, shape),
    }
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    return arrays | {"mask": (rng.random(shape) < 0.6).astype(np.float32)}


def reference_objective(arrays, config):
    """Token by token in float64: the loss's total and count, the metrics' totals."""
    totals = dict.fromkeys(
        ("policy_loss", "kl", "entropy", "ratio", "clip_high", "clip_low", "dual_clip"),
        0.0,
    )
    count = 0
    arrays = {name: np.asarray(x, np.float64) for name, x in arrays.items()}
    for at in zip(*np.nonzero(arrays["mask"])):
        token = {name: float(x[at]) for name, x in arrays.items()}
        count += 1
        advantage = token["advantages"]
        ratio = math.exp(token["logprobs"] - token["old_logprobs"])
        clipped = max(1 - config.eps_low, min(ratio, 1 + config.eps_high))
        gain = min(ratio * advantage, clipped * advantage)
        if config.dual_clip is not None and advantage < 0:
            totals["dual_clip"] += gain < config.dual_clip * advantage
            gain = max(gain, config.dual_clip * advantage)
        totals["policy_loss"] -= gain
        totals["ratio"] += ratio
        totals["clip_high"] += advantage > 0 and ratio > 1 + config.eps_high
        totals["clip_low"] += advantage < 0 and ratio < 1 - config.eps_low
        log_r = token["ref_logprobs"] - token["logprobs"]
        totals["kl"] += math.exp(log_r) - 1 - log_r
        totals["entropy"] += token["entropy"]
    return totals["policy_loss"] + config.beta * totals["kl"], count, totals


@pytest.mark.parametrize(
    "config",
    [
        DAPO,
        o.ObjectiveConfig(eps_low=0.1, eps_high=0.5, beta=0.3),
        o.ObjectiveConfig(dual_clip=1.5, beta=0.0),
    ],
    ids=["dapo", "other", "dual_clip"],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_equals_float64(config, seed):
    arrays = random_tokens(seed)
    loss, metrics = o.dapo_objective(**arrays, config=config)
    total, count, totals = reference_objective(arrays, config)
    assert float(loss.total) == pytest.approx(total, rel=1e-5)
    assert float(loss.count) == count
    assert float(loss.mean()) == pytest.approx(total / count, rel=1e-5)
    assert set(metrics) == set(totals)
    for name, value in totals.items():
        assert float(metrics[name].total) == pytest.approx(value, rel=1e-5), name
        assert float(metrics[name].count) == count


def test_the_gradient_equals_finite_differences_of_float64():
    arrays = random_tokens(5)
    config = o.ObjectiveConfig(beta=0.2)

    def total(logprobs):
        return o.dapo_objective(**arrays | {"logprobs": logprobs}, config=config)[
            0
        ].total

    got = np.asarray(jax.grad(total)(jnp.asarray(arrays["logprobs"])))
    for at in np.ndindex(got.shape):
        moved = []
        for step in (1e-6, -1e-6):
            logprobs = arrays["logprobs"].astype(np.float64)
            logprobs[at] += step
            changed = arrays | {"logprobs": logprobs}
            moved.append(reference_objective(changed, config)[0])
        slope = (moved[0] - moved[1]) / 2e-6
        assert got[at] == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_no_gradient_flows_but_through_the_logprobs():
    arrays = random_tokens(2)

    def total(others):
        loss, metrics = o.dapo_objective(
            **arrays | others, config=o.ObjectiveConfig(beta=1.0)
        )
        return loss.total + metrics["kl"].total + metrics["entropy"].total

    names = ("old_logprobs", "ref_logprobs", "entropy")
    gradients = jax.grad(total)({name: jnp.asarray(arrays[name]) for name in names})
    assert not any(np.any(g) for g in gradients.values())


def test_sums_of_parts_are_the_sum_of_all():
    arrays = random_tokens(1, (6, 5))
    whole, _ = o.dapo_objective(**arrays, config=DAPO)
    parts = [
        o.dapo_objective(**{k: v[at] for k, v in arrays.items()}, config=DAPO)[0]
        for at in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    summed = parts[0] + parts[1] + parts[2]
    assert float(summed.count) == float(whole.count)
    assert float(summed.total) == pytest.approx(float(whole.total), rel=1e-6)
    # The mean of the parts' means is another number: parts differ in their counts.
    means = [float(part.mean()) for part in parts]
    assert np.mean(means) != pytest.approx(float(whole.mean()), rel=1e-3)


def test_what_lies_outside_the_mask_is_not_looked_at():
    arrays = random_tokens(4)
    outside = arrays["mask"] == 0
    spoilt = {
        name: x if name == "mask" else np.where(outside, np.float32("nan"), x)
        for name, x in arrays.items()
    }
    loss, metrics = o.dapo_objective(**arrays, config=DAPO)
    same, same_metrics = o.dapo_objective(**spoilt, config=DAPO)
    assert float(same.total) == float(loss.total)
    for name, metric in metrics.items():
        assert float(same_metrics[name].total) == float(metric.total)


def test_no_tokens_no_division_by_zero():
    arrays = random_tokens(0) | {"mask": np.zeros((3, 7), np.float32)}
    loss, metrics = o.dapo_objective(**arrays, config=DAPO)
    assert float(loss.mean()) == 0
    assert loss.value() is None
    assert metrics["kl"].value() is None


def test_a_ratio_out_of_all_bounds_stays_finite():
    loss, gradient, _ = loss_of(1.0, -1.0)
    far = jnp.array([200.0])

    def total(logprobs):
        ones = np.ones(1)
        return o.policy_loss(logprobs, np.zeros(1), -ones, ones, DAPO)[0].total

    assert (loss, gradient) == (1.0, 1.0)
    assert float(total(far)) == pytest.approx(math.exp(20), rel=1e-5)
    assert float(jax.grad(total)(far)[0]) == 0


def test_a_reference_is_needed_only_with_a_weight():
    arrays = random_tokens(0)
    del arrays["ref_logprobs"]
    with pytest.raises(ValueError, match="beta > 0 needs ref_logprobs"):
        o.dapo_objective(**arrays, config=DAPO)
    _, metrics = o.dapo_objective(**arrays, config=o.ObjectiveConfig(beta=0.0))
    assert "kl" not in metrics
    short = arrays | {"old_logprobs": arrays["old_logprobs"][:1]}
    with pytest.raises(ValueError, match="old_logprobs: expected shape"):
        o.dapo_objective(**short, config=o.ObjectiveConfig(beta=0.0))


def test_the_gap_to_the_sampler():
    """Differences 0.5 and 0.1 on sampled tokens; 9 where none was sampled."""
    learner = np.array([[-1.0, -2.0, -9.0]], np.float32)
    sampler = np.array([[-1.5, -1.9, 0.0]], np.float32)
    mean, largest = o.logprob_gap(learner, sampler, np.array([[1, 1, 0]]))
    assert mean.value() == pytest.approx(0.3, rel=1e-6)
    assert float(largest) == 0.5


@pytest.mark.parametrize(
    "fields",
    [{"eps_low": 1.5}, {"eps_high": -0.1}, {"beta": float("inf")}, {"dual_clip": 0.5}],
)
def test_bad_configurations_are_refused(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
        o.ObjectiveConfig(**fields)
