"""Attention of packed rows on a mesh: each device attends in its own rows and heads.

Rows are split over (data, fsdp), heads over tensor where query and key heads divide.
Neither a kernel nor a loop over lists of blocks can be partitioned by the compiler; and
lists of blocks that are made of a device's own rows are shorter than those of all.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.policy.kernels import BLOCKS, SPLASH, heads_axis, rows_axes
from gru_mem_jax.policy.row_attention import attend_in_rows, row_layout
from gru_mem_jax.policy.splash import splash_in_rows, splash_layout

# (query [B, L, Q, H], key, value [B, L, K, H], which window) -> [B, L, Q * H]
Attend = Callable[..., jax.Array]


class RowAttention(NamedTuple):
    """Attention in rows whose layout is known.

    Attributes:
      attend: from query, key, value and which window.
      window_index: for each layer, which window.
    """

    attend: Attend
    window_index: tuple[int, ...]


def row_attention(
    name: str,
    config: PolicyConfig,
    positions: jax.Array,
    reach: jax.Array | None,
    mesh: Mesh | None = None,
) -> RowAttention:
    """Lays out rows for all layers.

    Args:
      name: "blocks" (`row_attention`) or "splash" (`splash`).
      config: of the policy.
      positions, reach: int32 [B, L], as in `row_layout`.
      mesh: that rows are split over; None: one device. Rows that do not divide over it
        (in programs that are traced and not run) are attended to by "blocks".
    """
    axes = None
    if mesh is not None and mesh.size > 1:
        axes = rows_axes(mesh, len(positions))
        if axes is None:
            name = BLOCKS
    splash = name == SPLASH
    attend = functools.partial(
        splash_in_rows if splash else attend_in_rows,
        scale=config.score_scale,
        softcap=config.attn_logit_softcapping,
    )

    def layout(positions, reach):
        rows = row_layout(positions, reach, config.windows)
        return splash_layout(rows) if splash else rows

    if axes is None:
        made = layout(positions, reach)
        attend_here = functools.partial(_attend, attend, made)
    else:
        # Layouts of single devices, stacked.
        make = _on_mesh(
            lambda *rows: jax.tree.map(lambda x: x[None], layout(*rows)),
            mesh,
            PartitionSpec(axes),
            PartitionSpec(axes),
        )
        made = make(positions, reach)
        attend_here = functools.partial(_attend_on_mesh, attend, made, mesh, axes)
    return RowAttention(attend_here, (made.rows if splash else made).window_index)


def _attend(attend: Attend, layout, query, key, value, window) -> jax.Array:
    return attend(query, key, value, layout, window)


def _attend_on_mesh(attend: Attend, layouts, mesh, axes, query, key, value, window):
    def local(query, key, value, layouts, window):
        return attend(query, key, value, jax.tree.map(lambda x: x[0], layouts), window)

    heads = PartitionSpec(axes, None, heads_axis(mesh, query.shape[2], key.shape[2]))
    specs = (heads, heads, heads, PartitionSpec(axes), PartitionSpec())
    return _on_mesh(local, mesh, specs, heads)(query, key, value, layouts, window)


def _on_mesh(function, mesh, in_specs, out_specs):
    # Kernels do not say over which axes their results vary: nothing is checked.
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
