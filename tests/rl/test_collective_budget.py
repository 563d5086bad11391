"""What the devices of a learner send to each other, counted in its compiled update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.planning import read_collectives
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch
from gru_mem_jax.rl.objective import ObjectiveConfig
from gru_mem_jax.rl.optimizer import LearnerConfig

POLICY = make_policy(
    PolicyConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
    )
)
BYTES = sum(
    4 * int(np.prod(x.shape)) for x in jax.tree.leaves(POLICY.abstract_params())
)
LENGTH = 512


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=["1,8,1", "2,2,2"])
def test_a_micro_batch_sends_no_more_than_its_weights_and_gradients(sizes):
    """Each weight is gathered for the forward pass and for the backward pass, and its
    gradient is added up: 3 times the params' bytes. Activations that leave their rows
    would make it 39 and 7.5 times."""
    mesh = make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes))))
    config = LearnerConfig(row_tokens=LENGTH, logits_chunk=128)
    learner = compile_learner(POLICY, ObjectiveConfig(beta=1e-3), config, mesh)
    rows, state = learner.abstract_rows(LENGTH), learner.abstract_state()
    real, count = rows.advantages, jax.ShapeDtypeStruct((), jnp.float32)
    lowered = learner.accumulate.lower(
        state.params, {}, jax.eval_shape(learner.begin), Batch(rows, real, real, count)
    )
    found = read_collectives(lowered.compile().as_text())
    assert found.total < 3.5 * BYTES
    assert found.unknown_loops == ()  # devices attend without waiting for each other
    # The head, which is the embedding, is gathered once for all blocks of logits; the
    # table of embeddings is not.
    _, fsdp, tensor = sizes
    head = 4 * 1024 * 256 // tensor
    gathers = [i for i in found.items if i.kind == "all-gather" and i.group == fsdp]
    assert [i.runs for i in gathers if i.bytes == head and "while" not in i.where] == [
        1
    ]
    # Looked up, a row's activations go to its device, and their gradients back.
    (there, back) = (i for i in found.items if i.kind == "all-to-all")
    assert there.total == back.total == 4 * LENGTH * 256
