"""Collectives counted by hand in pieces of HLO, and in a program made for it."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gru_mem_jax.planning.collectives import Collective, read_collectives
from gru_mem_jax.planning.hlo_text import array_bytes, count_runs, parse

HERE = pathlib.Path(__file__).parent

# A CPU program: a loop of known trips, a condition, an operation of several arrays.
CPU = (HERE / "cpu_program.hlo").read_text()

# As a TPU writes it: layouts with tiles, a loop whose condition holds its number of
# runs, a fused reduce-scatter, an asynchronous gather in three fusions, pairs of
# -start and -done.
TPU = (HERE / "tpu_program.hlo").read_text()


def counted(text):
    return {
        (item.kind, item.dtype, item.group, item.bytes, item.runs)
        for item in read_collectives(text).items
    }


def test_a_cpu_program():
    assert counted(CPU) == {
        ("all-gather", "f32", 8, 4 * 128 * 256, 5),
        ("all-reduce", "f32", 2, 16, 1),
        ("all-reduce", "f32", 8, 4 * (16 * 256 + 4), 1),
        ("all-to-all", "f32", 4, 16, 1),
        ("collective-permute", "f32", 2, 16, 1),
    }
    found = read_collectives(CPU)
    assert found.unknown_loops == ()
    assert found.bytes_by_kind()["all-gather"] == 5 * 4 * 128 * 256
    assert found.total == sum(found.bytes_by_kind().values())
    wheres = [item.where for item in found.items if item.kind == "all-gather"]
    assert wheres == ["jit(f)/while/body/dot"]


def test_a_tpu_program():
    weights = 2 * 512 * 128
    assert counted(TPU) == {
        ("all-gather", "bf16", 2, 2 * weights, 28),  # once, not for each fusion
        ("all-gather", "bf16", 4, 4 * weights, 1),
        ("all-reduce", "bf16", 2, weights, 1),
        ("reduce-scatter", "f32", 2, 4 * 2 * 512 * 256, 1),
    }
    # A loop of unknown length counts where it communicates.
    assert read_collectives(TPU).unknown_loops == ("once",)
    runs, unknown = count_runs(parse(TPU))
    assert runs["body"] == runs["start"] == 28
    assert unknown == ("quiet", "once")
    assert "add" not in runs  # applied to elements


def test_bytes_on_the_wire():
    def sent(kind, group):
        item = Collective(
            kind=kind, dtype="f32", group=group, bytes=800, runs=3, where=""
        )
        return item.sent

    assert sent("all-gather", 4) == sent("reduce-scatter", 4) == 3 * 600
    assert sent("all-reduce", 4) == 3 * 1200
    assert sent("all-to-all", 8) == 3 * 700
    assert sent("collective-permute", 2) == 3 * 800


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[]", 4),
        ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", 12),
        ("(pred[8], /*index=1*/s4[6], f8e4m3fn[5], u32[]{:S(2)}, token[])", 8 + 3 + 9),
        ("c64[2]", 16),
    ],
)
def test_bytes_of_types(text, size):
    assert array_bytes(text) == size


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        read_collectives("module @jit_f {}")
    with pytest.raises(ValueError, match=r"not known: \[x\], to_apply"):
        read_collectives(CPU.replace("replica_groups={}", "replica_groups=[x]"))


def test_a_program_of_this_jax():
    """A sum over devices in a loop within a loop, and a gather: 3 x 5 and 1 runs."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("x")

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=split, out_specs=PartitionSpec()
    )
    def total(x):
        def inner(carry, _):
            return carry + jax.lax.psum(jnp.sin(carry + x), "x"), None

        def outer(carry, _):
            return jax.lax.scan(inner, carry, None, length=5)[0], None

        start = jax.lax.psum(x, "x") * 0
        return jax.lax.scan(outer, start, None, length=3)[0]

    @jax.jit
    def program(x, y):
        whole = jax.lax.with_sharding_constraint(
            y, NamedSharding(mesh, PartitionSpec())
        )
        return total(x), whole * 2

    at = NamedSharding(mesh, split)
    shapes = [
        jax.ShapeDtypeStruct(s, np.float32, sharding=at) for s in ((64, 8), (16,))
    ]
    found = read_collectives(program.lower(*shapes).compile().as_text())
    sums = [item for item in found.items if item.kind == "all-reduce"]
    assert sorted(item.runs for item in sums) == [1, 15]
    assert {(item.group, item.bytes) for item in sums} == {(8, 4 * 8 * 8)}
    (gather,) = (item for item in found.items if item.kind == "all-gather")
    assert (gather.group, gather.bytes, gather.runs) == (8, 64, 1)


def test_a_product_beside_the_exchange_of_its_parts():
    """As XLA writes it for TPU: parts go around a ring, and the loop counts by 2."""
    found = read_collectives(WINDOWED)
    assert found.unknown_loops == ()
    (item,) = found.items
    assert (item.kind, item.bytes, item.runs) == ("collective-permute", 512, 4)


WINDOWED = """\
HloModule jit_f, is_scheduled=true, num_partitions=16

%body (p: (bf16[2,128], u32[])) -> (bf16[2,128], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %p = (bf16[2,128]{1,0}, u32[]{:T(128)}) parameter(0)
  %part = bf16[2,128]{1,0} get-tuple-element(%p), index=0
  %count = u32[]{:T(128)} get-tuple-element(%p), index=1
  %sent = bf16[2,128]{1,0} collective-permute(%part), channel_id=3, \
source_target_pairs={{0,1},{1,0}}
  %next = u32[]{:T(128)} add(%count, %two)
  ROOT %tuple = (bf16[2,128]{1,0}, u32[]{:T(128)}) tuple(%sent, %next)
}

%condition (q: (bf16[2,128], u32[])) -> pred[] {
  %eight = u32[]{:T(128)} constant(8)
  %q = (bf16[2,128]{1,0}, u32[]{:T(128)}) parameter(0)
  %at = u32[]{:T(128)} get-tuple-element(%q), index=1
  ROOT %less = pred[] compare(%at, %eight), direction=LT
}

ENTRY %main (x: bf16[2,128], zero: u32[]) -> bf16[2,128] {
  %x = bf16[2,128]{1,0} parameter(0)
  %zero = u32[]{:T(128)} parameter(1)
  %begin = (bf16[2,128]{1,0}, u32[]{:T(128)}) tuple(%x, %zero)
  %loop = (bf16[2,128]{1,0}, u32[]{:T(128)}) while(%begin), condition=%condition, \
body=%body
  ROOT %out = bf16[2,128]{1,0} get-tuple-element(%loop), index=0
}
"""
