"""What a chip can do, as its maker states it."""

import dataclasses

from gru_mem_jax.errors import InputError

GIB = 1 << 30
# Share of the interconnect's bandwidth, both ways together, that one direction of a
# ring reaches: a device receives the bytes of a collective at this rate.
LINK_SHARE = 0.45


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One device as JAX counts them: a chip, or one of the two cores of a TPU7x.

    Attributes:
      name: in a topology's name, such as "v5p".
      device_kind: as JAX says it.
      flops: bfloat16 operations a second.
      memory: bytes of HBM that programs may use; the compiler's own limit, a little
        less than there are.
      memory_bandwidth: bytes a second.
      link_bandwidth: bytes a second of the interconnect, both ways together.
      devices_per_chip: of this kind.
      source: of the figures.
    """

    name: str
    device_kind: str
    flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    devices_per_chip: int = 1
    source: str

    @property
    def received(self) -> float:
        """Bytes a second that a device receives in a collective."""
        return LINK_SHARE * self.link_bandwidth


_DOCS = "https://docs.cloud.google.com/tpu/docs/"
CHIPS = (
    Chip(
        name="v5e",
        device_kind="TPU v5 lite",
        flops=197e12,
        memory=int(15.75 * GIB),
        memory_bandwidth=819e9,
        link_bandwidth=400e9,
        source=_DOCS + "v5e",
    ),
    Chip(
        name="v5p",
        device_kind="TPU v5",
        flops=459e12,
        memory=int(95.74 * GIB),
        memory_bandwidth=2765e9,
        link_bandwidth=1200e9,
        source=_DOCS + "v5p",
    ),
    Chip(
        name="v6e",
        device_kind="TPU v6 lite",
        flops=918e12,
        memory=int(31.25 * GIB),
        memory_bandwidth=1638e9,
        link_bandwidth=800e9,
        source=_DOCS + "v6e",
    ),
    # A chip of 2307 TFLOP/s, 192 GiB, 7380 GB/s and 1200 GB/s is two devices.
    Chip(
        name="tpu7x",
        device_kind="TPU7x",
        flops=2307e12 / 2,
        memory=int(94.75 * GIB),
        memory_bandwidth=7380e9 / 2,
        link_bandwidth=1200e9 / 2,
        devices_per_chip=2,
        source=_DOCS + "tpu7x",
    ),
)


def chip_of(device_kind: str) -> Chip:
    """The chip of JAX devices of this kind.

    Raises:
      InputError: its figures are not known.
    """
    for chip in CHIPS:
        if chip.device_kind == device_kind:
            return chip
    known = ", ".join(chip.name for chip in CHIPS)
    raise InputError(
        f"the figures of a {device_kind} are not known; plan for one of {known}"
    )
