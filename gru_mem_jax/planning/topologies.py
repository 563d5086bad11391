"""The devices of a TPU slice that nobody holds, to compile for."""

import importlib.util
import re
from typing import Any

from gru_mem_jax.errors import InputError

_FORM = re.compile(r"(\w+):(\d+(?:x\d+)+)", re.ASCII)
_EXAMPLES = {
    "v5e": "v5e:2x4, 4x4, 16x16",
    "v5p": "v5p:2x2x1, 4x4x4",
    "v6e": "v6e:2x4, 8x8, 16x16",
    "tpu7x": "tpu7x:2x2x1, 4x4x4",
}


def topology_devices(name: str) -> tuple[Any, ...]:
    """The devices of a topology.

    libtpu must not look for a TPU, nor keep other processes from loading it: set
    TPU_SKIP_MDS_QUERY and ALLOW_MULTIPLE_LIBTPU_LOAD to 1 before. JAX's own platform is
    another, which is to be started first.

    Args:
      name: such as "v5p:4x4x4": the chip, and how many there are along each axis.

    Raises:
      InputError: libtpu is not installed, or it knows no such topology.
    """
    match = _FORM.fullmatch(name.strip().lower())
    if match is None or match[1] not in _EXAMPLES:
        raise InputError(
            f"--topology: {name!r} is no CHIP:AxB or CHIP:AxBxC; such are {_known()}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for a TPU needs libtpu: pip install 'gru_mem_jax[tpu]' (no TPU "
            "is needed)"
        )
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=match[0])
    except Exception as error:  # of libtpu, which has classes of its own
        reason = str(error).split(": ", 1)[-1].splitlines()[0][:200]
        raise InputError(
            f"--topology: there is no {name}: {reason}; such are {_known()}"
        ) from error
    return tuple(described.devices)


def _known() -> str:
    return "; ".join(_EXAMPLES.values())
