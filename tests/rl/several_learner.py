"""One of two processes that learn together: several_learner.py ADDRESS INDEX SIZES.

Each hands over its own rows. Prints JSON: loss, grad_norm, kl and the gap to the
sampler, the norm of the new params, and how the row numbers of its part begin.
"""

import json
import sys

import jax
import optax
import test_learner

from gru_mem_jax.parallelism import (
    MeshConfig,
    global_rows,
    local_row_shards,
    make_mesh,
    row_shards,
)
from gru_mem_jax.rl.compile import compile_learner
from gru_mem_jax.rl.learner import Batch, host_count
from gru_mem_jax.rl.packing import pack


def step(learner):
    """An optimiser step on all conversations, and what is reported of it."""
    params = test_learner.POLICY.init(jax.random.key(0))
    batches = pack(test_learner.some_conversations(), learner.packing)
    state, carry = learner.init(params), learner.begin()
    frozen, placed = learner.freeze(params), learner.put(params)
    mesh = learner.mesh
    own = learner.packing.rows * local_row_shards(mesh) // row_shards(mesh)
    start = jax.process_index() * own
    for rows in batches:
        part = jax.tree.map(lambda x: x[start : start + own], rows)
        rows = global_rows(mesh, part)
        ref = learner.logprobs(placed, rows).logprobs
        batch = Batch(rows, None, ref, host_count(batches))
        carry = learner.accumulate(state.params, frozen, carry, batch)
    gap = carry.gap
    state, _, report = learner.apply(state, carry)
    report, gap = jax.device_get((report, gap))
    return {
        "loss": float(report.sums["loss"].total),
        "kl": float(report.sums["kl"].total),
        "grad_norm": float(report.grad_norm),
        "gap": float(gap.value()),
        "norm": float(jax.jit(optax.tree.norm)(state.params)),
    }


def main():
    address, index, sizes = sys.argv[1:]
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.distributed.initialize(address, 2, int(index))
    data, fsdp, tensor = map(int, sizes.split(","))
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    learner = compile_learner(
        test_learner.POLICY, test_learner.OBJECTIVE, test_learner.CONFIG, mesh
    )
    owners = [device.process_index for device in mesh.devices.flat]
    print(json.dumps(step(learner) | {"owners": owners}))


if __name__ == "__main__":
    main()
