"""Compiles what attends by a kernel for TPUs that nobody holds.

    python tests/policy/compile_kernels.py v5e
    python tests/policy/compile_kernels.py v5p

Prints a line of JSON for each program: its name, how many `kernels` are in it, and
`temp`, bytes on a device. On v5e the gradient of two layers with the heads of Qwen2.5
7B, and an engine's decode; the learner's update is lowered, not compiled. On v5p both
again, the engine's prefill, and Gemma 3 with its windows.
"""

import json
import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from gru_mem_jax.parallelism import MeshConfig, make_mesh
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.functional import make_policy
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch
from gru_mem_jax.rl.optimizer import LearnerConfig
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.programs import Programs

QWEN = PolicyConfig(
    vocab_size=256,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=28,
    num_key_value_heads=4,
    head_dim=128,
)
GEMMA = PolicyConfig(
    family="gemma3_text",
    vocab_size=256,
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
    sliding_window=512,
    layer_types=("sliding_attention", "full_attention"),
    attn_logit_softcapping=50.0,
)


def mesh_of(topology, *sizes):
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=topology
    ).devices
    names = ("data", "fsdp", "tensor")
    return make_mesh(MeshConfig(**dict(zip(names, sizes))), devices)


def learner_of(config, mesh, length=1024):
    policy = make_policy(config)
    settings = LearnerConfig(
        row_tokens=length, length_buckets=1, compute_dtype="bfloat16"
    )
    return compile_learner(policy, config=settings, mesh=mesh)


def rows(learner):
    """The gradient of a sum over the learner's rows, by what "auto" chooses."""
    policy, mesh = learner.spec.policy, learner.mesh
    packed = learner.abstract_rows(learner.config.row_tokens)

    def total(params, tokens, positions, reach):
        hidden = policy.hidden(
            params, tokens, positions, reach, attention="auto", mesh=mesh
        )
        return hidden.astype(jnp.float32).sum()

    params = learner.abstract_params(jnp.bfloat16)
    layout = (packed.tokens, packed.positions, packed.reach)
    gradient = jax.jit(jax.grad(total), out_shardings=learner.params_sharding)
    return gradient.lower(params, *layout)


def update(learner):
    """What trains: forward and backward of a micro-batch."""
    packed = learner.abstract_rows(learner.config.row_tokens)
    batch = Batch(packed, None, None, jax.ShapeDtypeStruct((), jnp.float32))
    params, carry = learner.abstract_state().params, jax.eval_shape(learner.begin)
    return learner.accumulate.lower(params, {}, carry, batch)


def show(name, text, temp=None):
    calls = re.findall(r'custom_call_target="?tpu_custom_call|@tpu_custom_call', text)
    print(json.dumps({"name": name, "kernels": len(calls), "temp": temp}), flush=True)


def compiled(name, lowered):
    done = lowered.compile()
    show(name, done.as_text(), done.memory_analysis().temp_size_in_bytes)


def engine_on(topology):
    """Programs of two layers of a 7B's heads; the size of its one decode program."""
    sizes = EngineConfig(slots=64, max_length=4096, dtype="bfloat16")
    mesh = mesh_of(topology, 1, 1, 4)
    programs = Programs(make_policy(QWEN), sizes, "bfloat16", mesh)
    (attend,) = programs.decode_attends
    return programs, attend


def on_v5e():
    learner = learner_of(QWEN, mesh_of("v5e:2x2", 1, 2, 2))
    show("update", update(learner).as_text())
    compiled("rows", rows(learner))
    programs, attend = engine_on("v5e:2x2")
    compiled("decode", programs.lower_decode(attend))


def on_v5p():
    compiled("rows", rows(learner_of(QWEN, mesh_of("v5p:2x2x1", 2, 1, 2))))
    # Four query heads and one key head: on a tensor axis each device has them all.
    compiled("windows", rows(learner_of(GEMMA, mesh_of("v5p:2x2x1", 1, 2, 2), 512)))
    programs, attend = engine_on("v5p:2x2x1")
    compiled("decode", programs.lower_decode(attend))
    compiled("prefill", programs.lower_prefill(4, 512, 4096))


if __name__ == "__main__":
    {"v5e": on_v5e, "v5p": on_v5p}[sys.argv[1]]()
