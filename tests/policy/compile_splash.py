"""Compiles splash attention for a TPU that nobody holds.

    python tests/policy/compile_splash.py

The gradient of one layer with the heads of Qwen2.5 7B in rows of 2048 tokens, for one
chip. Prints JSON: `kernels` in it, `in_learner` whether the learner's update has the
kernel, and the `refusal` of four devices.
"""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from gru_mem_jax.errors import InputError
from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch
from gru_mem_jax.rl.optimizer import LearnerConfig

POLICY = make_policy(
    PolicyConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=28,
        num_key_value_heads=4,
        head_dim=128,
    )
)
CONFIG = LearnerConfig(
    attention="splash", row_tokens=2048, length_buckets=1, compute_dtype="bfloat16"
)


def main():
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:2x2"
    ).devices
    learner = compile_learner(
        POLICY, config=CONFIG, mesh=make_mesh(MeshConfig(), devices)
    )
    rows = learner.abstract_rows(2048)
    batch = Batch(rows, None, None, jax.ShapeDtypeStruct((), jnp.float32))
    params, carry = learner.abstract_state().params, jax.eval_shape(learner.begin)
    update = learner.accumulate.lower(params, {}, carry, batch).as_text()

    def total(params, tokens, positions, reach):
        hidden = POLICY.hidden(params, tokens, positions, reach, attention="splash")
        return hidden.astype(jnp.float32).sum()

    layout = (rows.tokens, rows.positions, rows.reach)
    params = learner.abstract_params(jnp.bfloat16)
    gradient = jax.jit(jax.grad(total)).lower(params, *layout).compile().as_text()
    try:
        compile_learner(
            POLICY, config=CONFIG, mesh=make_mesh(MeshConfig(data=4), devices)
        )
    except InputError as error:
        refusal = str(error)
    result = {
        "kernels": gradient.count('custom_call_target="tpu_custom_call"'),
        "in_learner": "tpu_custom_call" in update,
        "refusal": refusal,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
