"""An engine whose kernel reads true lengths: one decode program, the same tokens."""

import jax
import pytest
from conftest import random_ids, request, run_all

from gru_mem_jax.policy.kernels import Choice, SamplerAttention
from gru_mem_jax.sampling import programs


@pytest.fixture
def by_cudnn(monkeypatch):
    """What a GPU would choose, by the plain implementation of the same calls."""
    attend = jax.nn.dot_product_attention

    def plain(*arrays, **options):
        return attend(*arrays, **(options | {"implementation": "xla"}))

    chosen = Choice("cudnn", "a test")
    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    monkeypatch.setattr(
        programs, "engine_attention", lambda *sizes: SamplerAttention(chosen, chosen)
    )


def requests():
    """Of lengths that need every decode size up to 512, and more than there is room."""
    lengths = (3, 300, 40, 150, 8, 90)
    return [
        request(random_ids(n, n), budget=12, temperature=0.0, seed=n) for n in lengths
    ]


def test_one_decode_program_gives_the_same_tokens(by_cudnn, small):
    sizes = {"slots": 3, "max_length": 576, "prefill_blocks": (32, 256)}
    engine = small.engine(attention="auto", **sizes)
    assert engine.attention == ("attention on cpu: prefill, decode by cudnn (a test)")
    ours = run_all(engine, requests())
    names = engine.stats()["program_names"]
    assert [name for name in names if name.startswith("decode")] == ["decode 576"]
    # Blocks of 256 that begin their prompts are read by the kernel too.
    assert any(name.startswith("prefill") and name.endswith(" 0") for name in names)
    prompts = [[i for s in r.prompt for i in s.ids] for r in requests()]
    for done, prompt in zip(ours, prompts):
        if len(prompt) < 100:  # what `small` computes by full forward passes
            assert list(done.ids) == small.greedy(prompt, 12)
