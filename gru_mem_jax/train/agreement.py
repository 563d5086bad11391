"""The processes of a run are of one run: what must be equal before it begins."""

import os
from typing import Any

import jax
from jax.sharding import Mesh

from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.parallelism import local_row_shards
from gru_mem_jax.train.config import SFTConfig, TrainConfig
from gru_mem_jax.train.data_check import data_identity


def agree_on_settings(
    hosts: Hosts, settings: str, run_dir: str | os.PathLike[str]
) -> None:
    """Refuses processes with other settings or devices.

    Args:
      hosts: the processes of the run.
      settings: all of them, as text.
      run_dir: the run folder.

    Raises:
      InputError: on every process, with the first difference.
    """
    if hosts.count == 1:
        return
    own = jax.local_devices()
    facts = {
        "platform": own[0].platform,
        "kind of devices": own[0].device_kind,
        "number of devices": len(own),
        "settings": settings,
        "run folder": os.fspath(run_dir),
    }
    hosts.agree("settings", facts)


def agree_on_files(
    hosts: Hosts, config: TrainConfig | SFTConfig, weights_sha256: str, mesh: Mesh
) -> None:
    """Refuses processes with other data or weights, or without rows of their own.

    Args:
      hosts: the processes of the run.
      config: of the run; its data are compared.
      weights_sha256: of the weights that it begins with.
      mesh: of the learner.

    Raises:
      InputError: on every process, with the first difference.
    """
    if hosts.count == 1:
        return
    local_row_shards(mesh)
    facts: dict[str, Any] = {"weights (sha256)": weights_sha256}
    for name in ("source", "short_source", "held_out"):
        source = getattr(config, name, None)
        if source is not None:
            facts[f"data of {name}"] = data_identity(source)
    hosts.agree("files", facts)
