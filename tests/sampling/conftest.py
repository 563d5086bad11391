"""A small policy with random weights, and requests for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.agent.requests import Request, Segment
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine

VOCAB = 101


class Small:
    """A two-layer policy, engines over it, and the slow truth about it."""

    def __init__(self, **changes):
        self.policy = make_policy(
            PolicyConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.4,  # logits far enough apart to be worth testing
                **changes,
            )
        )
        self.params = self.policy.init(jax.random.key(0))
        self._apply = jax.jit(self.policy.apply)

    def engine(self, decoder=None, **settings) -> Engine:
        settings = {"slots": 4, "max_length": 160, "prefill_tokens": 256} | settings
        settings.setdefault("prefill_blocks", (16, 64))
        return Engine(self.policy, self.params, EngineConfig(**settings), decoder)

    def log_probs(self, ids) -> np.ndarray:
        """float64[n, V] after each of the ids, by a full forward pass."""
        padded = np.zeros((1, 160), np.int32)
        padded[0, : len(ids)] = ids
        positions = np.full((1, 160), -1, np.int32)
        positions[0, : len(ids)] = np.arange(len(ids))
        logits = self._apply(self.params, jnp.asarray(padded), jnp.asarray(positions))
        logits = np.asarray(logits[0, : len(ids)], np.float64)
        top = logits.max(-1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))

    def greedy(self, prompt, number, stop_ids=()) -> list[int]:
        """Greedy continuation, the whole sequence computed anew for each token."""
        ids = list(prompt)
        for _ in range(number):
            ids.append(int(self.log_probs(ids)[-1].argmax()))
            if ids[-1] in stop_ids:
                break
        return ids[len(prompt) :]


@pytest.fixture(scope="session")
def small() -> Small:
    return Small()


def request(*segments, budget=12, stop_ids=(), **settings) -> Request:
    """A request whose segments are given as sequences of ids."""
    roles = ("control", "question", "memory", "chunk")
    prompt = tuple(
        Segment(roles[i % 4], tuple(map(int, ids))) for i, ids in enumerate(segments)
    )
    return Request(
        prompt=prompt, max_new_tokens=budget, stop_ids=tuple(stop_ids), **settings
    )


def random_ids(seed: int, number: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, number).tolist()


def run_all(engine, requests) -> list:
    """Submits everything at once; completions in the order of requests."""
    handles = [engine.submit(r) for r in requests]
    done = {}
    while len(done) < len(requests):
        ended = engine.step()
        assert ended
        done.update(ended)
    return [done[h] for h in handles]
