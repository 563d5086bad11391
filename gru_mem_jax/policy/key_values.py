"""The cache of an attention layer: keys and values by slot.

A layer's cache is an object with a few operations (`extend`, `front`, `copied`,
`read`, `written`), so that a layer that keeps something else than keys can bring its
own. To free a slot nothing needs to be done: what is not overwritten is not seen.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values of one layer.

    Attributes:
      keys: [S, K, C, H].
      values: [S, K, C, H].
    """

    keys: jax.Array
    values: jax.Array

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], dtype: Any) -> "KeyValues":
        """An empty cache of `shape` [S, K, C, H]."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    @property
    def length(self) -> int:
        """C, positions of a slot."""
        return self.keys.shape[2]

    def extend(
        self,
        key: jax.Array,
        value: jax.Array,
        index: jax.Array,
        slots: jax.Array | None = None,
    ) -> "KeyValues":
        """Stores new keys and values.

        Args:
          key, value: [B, L, K, H], in the cache's dtype.
          index: int32 [B, L], where each is stored; negative ones are not.
          slots: int32 [B]; None: row b is slot b.
        """
        slots = jnp.arange(self.keys.shape[0]) if slots is None else slots
        # A negative index would count from the end; beyond the end it is dropped.
        index = jnp.where(index < 0, self.length, index)

        def store(cache, new):
            return cache.at[slots[:, None], :, index].set(new, mode="drop")

        return KeyValues(store(self.keys, key), store(self.values, value))

    def front(self, length: int, slots: jax.Array | None = None) -> "KeyValues":
        """The first `length` (static) positions of each slot of int32 [B] `slots`.

        Returns:
          [B, K, length, H] each; all slots if `slots` is None.
        """
        keys, values = self.keys[:, :, :length], self.values[:, :, :length]
        if slots is not None:
            keys, values = keys[slots], values[slots]
        return KeyValues(keys, values)

    def copied(self, source: jax.Array, target: jax.Array, length: int) -> "KeyValues":
        """With the first `length` (static) positions of a slot copied to another."""
        return self.written(target, self.read(source, length))

    def read(self, slot: jax.Array, length: int) -> jax.Array:
        """The first `length` (static) positions of a slot, [2, K, length, H]."""

        def one(x):
            size = (1, x.shape[1], length, x.shape[3])
            return jax.lax.dynamic_slice(x, (slot, 0, 0, 0), size)

        return jnp.concatenate([one(self.keys), one(self.values)])

    def written(self, slot: jax.Array, front: jax.Array) -> "KeyValues":
        """With `front` [2, K, L, H] as the first L positions of a slot."""

        def one(x, new):
            return jax.lax.dynamic_update_slice(x, new, (slot, 0, 0, 0))

        return KeyValues(one(self.keys, front[:1]), one(self.values, front[1:]))
