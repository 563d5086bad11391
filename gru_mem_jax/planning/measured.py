"""A program compiled for devices that nobody holds: what it takes of each of them."""

import dataclasses
import re
import time
from typing import Any

import jax

from gru_mem_jax.planning.chips import GIB, Chip
from gru_mem_jax.planning.collectives import read_collectives
from gru_mem_jax.planning.costs import program_cost
from gru_mem_jax.planning.programs import Program

COMPUTE, MEMORY, NETWORK = "compute", "memory", "network"
_NEEDED = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM")
_SAID = 300  # characters of a compiler's error
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One program, on one device.

    Attributes:
      name, tokens: of the program.
      arguments, temporaries, results: bytes; of results those that take no argument's
        place. What the compiler could not fit has only `temporaries`, as far as it
        says.
      held: bytes of what stays beside it.
      compiled: whether the compiler found room for it, and no error.
      error: what the compiler failed with, if that is not a lack of room.
      flops: of a call.
      traffic: bytes from and to HBM in a call.
      collectives: bytes of each kind of collective in a call.
      received: bytes that come in from other devices.
      seconds: of a call at the chip's figures, by what it takes them for.
      compile_seconds, compile_cpu_seconds: wall-clock, and of all cores.
    """

    name: str
    tokens: int
    arguments: int = 0
    temporaries: int = 0
    results: int = 0
    held: int
    compiled: bool = True
    error: str | None = None
    flops: float
    traffic: float = 0.0
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    received: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    compile_seconds: float
    compile_cpu_seconds: float

    @property
    def peak(self) -> int:
        """Bytes that must be there while it runs, its own."""
        return self.arguments + self.temporaries + self.results

    @property
    def total(self) -> int:
        """Bytes that must be there while it runs, with what stays beside it."""
        return self.peak + self.held

    @property
    def roofline_seconds(self) -> float:
        """The longest of `seconds`: all else may run beside it."""
        return max(self.seconds.values(), default=0.0)

    @property
    def binds(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name], default="-")

    def fits(self, chip: Chip) -> bool:
        """Whether the chip has room for it and all beside it."""
        return self.compiled and self.total <= chip.memory

    def record(self, chip: Chip) -> dict[str, Any]:
        """JSON-ready; sizes in GiB and bytes, all of one device."""
        return {
            "name": self.name,
            "peak_gib": self.peak / GIB,
            "argument_gib": self.arguments / GIB,
            "temporary_gib": self.temporaries / GIB,
            "result_gib": self.results / GIB,
            "held_gib": self.held / GIB,
            "total_gib": self.total / GIB,
            "fits": self.fits(chip),
            "error": self.error,
            "flops": self.flops,
            "hbm_bytes": self.traffic,
            "collective_bytes": sum(self.collectives.values()),
            "collectives": self.collectives,
            "seconds": self.seconds,
            "roofline_seconds": self.roofline_seconds,
            "binds": self.binds,
            "compile_seconds": self.compile_seconds,
            "compile_cpu_seconds": self.compile_cpu_seconds,
        }


def measure(program: Program, chip: Chip) -> Measured:
    """Compiles a program for its devices and reads what it takes of them.

    That it does not fit is a finding and no error, and so is what the compiler cannot
    lower for these devices.
    """
    traced = program.trace()
    lengths = (program.loops, program.seen, program.read)
    flops = program_cost(traced.jaxpr, *lengths).flops / program.devices
    started = time.perf_counter(), time.process_time()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        needed = _NEEDED.search(said)
        size = float(needed[1]) * _UNITS[needed[2]] if needed else 0.0
        no_room = "RESOURCE_EXHAUSTED" in said
        return Measured(
            name=program.name,
            tokens=program.tokens,
            temporaries=int(size),
            held=program.held,
            compiled=False,
            error=None if no_room else " ".join(said.split())[:_SAID],
            flops=flops,
            **_took(*started),
        )
    took = _took(*started)
    memory = compiled.memory_analysis()
    found = read_collectives(compiled.as_text())
    arguments = memory.argument_size_in_bytes
    results = memory.output_size_in_bytes
    if program.share is None:
        traffic = float(arguments + results)
    else:
        share = program_cost(program.share().jaxpr, *lengths)
        traffic = share.bytes / program.ways
    received = sum(item.sent for item in found.items)
    return Measured(
        name=program.name,
        tokens=program.tokens,
        arguments=arguments,
        temporaries=memory.temp_size_in_bytes,
        results=max(0, results - memory.alias_size_in_bytes),
        held=program.held,
        flops=flops,
        traffic=traffic,
        collectives=found.bytes_by_kind(),
        received=received,
        seconds={
            COMPUTE: flops / chip.flops,
            MEMORY: traffic / chip.memory_bandwidth,
            NETWORK: received / chip.received,
        },
        **took,
    )


def _took(wall: float, cpu: float) -> dict[str, Any]:
    """Since these times."""
    return {
        "compile_seconds": time.perf_counter() - wall,
        "compile_cpu_seconds": time.process_time() - cpu,
    }
