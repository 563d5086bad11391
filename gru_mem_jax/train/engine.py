"""The sampler of a run, and how it gets its weights."""

from typing import Any

import jax
from jax.sharding import Mesh

from gru_mem_jax.policy.functional import Policy
from gru_mem_jax.sampling import engine_pool
from gru_mem_jax.sampling.config import EngineConfig
from gru_mem_jax.sampling.engine import Engine
from gru_mem_jax.sampling.engine_pool import EnginePool
from gru_mem_jax.sampling.footprint import engine_dtype
from gru_mem_jax.sampling.hand_over import group_mesh, hand_over
from gru_mem_jax.sampling.jobs import Decoder


class HeldEngine:
    """The engines of this process for a whole run, on the learner's devices.

    Args:
      policy: the policy.
      config: sizes of each engine, with `tensor`; None: the run samples nothing.
      decoder: the policy's tokenizer.
      mesh: of the learner.
    """

    def __init__(
        self,
        policy: Policy,
        config: EngineConfig | None,
        decoder: Decoder | None,
        mesh: Mesh,
    ):
        self._policy, self._config, self._decoder = policy, config, decoder
        self._mesh = mesh
        self._engine: Engine | EnginePool | None = None

    def place(self, params: Any) -> Any:
        """Hands weights over: full params on the learner's mesh to where engines run.

        The old weights are freed first, so that there are never two; no request may be
        running. On several processes it is a program over the devices of all: each
        calls it at the same place in the order of its programs.

        Args:
          params: full params; they are left alone.

        Returns:
          What a call of this object takes.
        """
        config = self._config
        if self._engine is not None:
            self._engine.free(cache=False)
        groups = group_mesh(self._mesh, config.tensor or 1)
        laid = hand_over(self._policy, params, engine_dtype(config), groups)
        return jax.block_until_ready(laid)

    def __call__(self, params: Any) -> Engine | EnginePool:
        """The engines with these weights, all that they held forgotten.

        Args:
          params: of `place`.
        """
        if self._engine is None:
            self._engine = engine_pool.make(
                self._policy, params, self._config, self._decoder, self._mesh
            )
        else:
            self._engine.set_params(params)
        return self._engine

    def release(self) -> None:
        """Nothing is sampled until the next `place`: frees what is not resident."""
        if self._engine is not None and not self._config.resident:
            self._engine.free()
