"""One compilation for all tensor groups of a size.

A compiled program is bound to its devices. Serialised and loaded again it can be bound
to others: a decode program of 8 layers takes 0.13 s to load on a CPU where it takes
1.4 s to lower and compile. `jax.experimental.serialize_executable` does the first, but
cannot name other devices; so a few lines here rely on how it stores a program. Where a
version of jax or a platform has it otherwise, programs are compiled for each group.

With jax's cache of compiled programs on disk, as the command line has it, each group
compiles (on GPUs the cache has one entry for all), and later runs load: a program that
came from that cache cannot be stored again on a CPU, where parts of it are lost.
"""

import contextlib
import io
import pickle
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Devices = Sequence[jax.Device]


class Portable:
    """A program that was compiled for some devices, to be loaded on others.

    Args:
      compiled: the program.
      devices: of its mesh.
    """

    def __init__(self, compiled: jax.stages.Compiled, devices: Devices):
        self._compiled, self._devices = compiled, devices
        self._stored: tuple[Any, ...] | None = None

    def on(self, devices: Devices) -> jax.stages.Compiled | None:
        """The program on as many other devices; None: it cannot be had so."""
        if jax.config.jax_compilation_cache_dir is not None:
            return None
        # Whatever a future jax does differently: compiling is always right.
        with contextlib.suppress(Exception):
            loaded = self._load(devices)
            if loaded.runtime_executable().local_devices() == list(devices):
                return loaded
        return None

    def _load(self, devices: Devices) -> jax.stages.Compiled:
        from jax.experimental import serialize_executable

        if self._stored is None:
            self._stored = serialize_executable.serialize(self._compiled)
        stored, inputs, outputs = self._stored
        reader = _reader(stored, self._devices, devices)
        unloaded, arguments, no_kwargs = reader.load()
        arguments = inputs.unflatten(arguments)
        return jax.stages.Compiled(
            unloaded.load(), [], arguments, outputs, no_kwargs=no_kwargs
        )


def _reader(stored: bytes, old: Devices, new: Devices) -> pickle.Unpickler:
    """Reads a serialised program, with new devices in the place of the old."""
    from jax._src.compiler import get_compile_options
    from jax._src.lib import xla_client

    client = new[0].client
    by_id = {a.id: b for a, b in zip(old, new, strict=True)}
    options = get_compile_options(
        num_replicas=1,
        num_partitions=len(new),
        device_assignment=np.asarray([[device.id for device in new]]),
    )

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            kind, *rest = pid
            if kind == "exec":
                return client.deserialize_executable(
                    rest[0],
                    executable_devices=xla_client.DeviceList(tuple(new)),
                    compile_options=options,
                )
            return by_id[rest[0]] if kind == "device" else client

    return Reader(io.BytesIO(stored))
