"""What the devices of a compiled program send to each other, read from its HLO.

    found = read_collectives(compiled.as_text())
    found.bytes_by_kind()["all-gather"]

XLA's own cost analysis counts a loop's body once, and no bytes that are sent.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from gru_mem_jax.planning.hlo_text import (
    Instruction,
    Program,
    arrays,
    called,
    count_runs,
    parse,
    split_list,
)

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of a program.

    Attributes:
      kind: of `KINDS`.
      dtype: of its elements, e.g. "bf16"; "mixed" if several arrays differ.
      group: devices that exchange data with each other; 2 of a permutation.
      bytes: of one run on a device: what is gathered, of an all-gather; what goes in,
        of the others.
      runs: in a call of the program.
      where: what it was made of: the op_name that JAX gave it.
    """

    kind: str
    dtype: str
    group: int
    bytes: int
    runs: int
    where: str

    @property
    def total(self) -> int:
        """Bytes of all runs."""
        return self.bytes * self.runs

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all runs, by ring algorithms.

        Of n devices each sends the (n - 1) / n of the array that are not to stay, and
        does so twice where all reduce: scatter the sums, then gather them.
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.total)
        share = (self.group - 1) / self.group
        return self.total * share * (2 if self.kind == "all-reduce" else 1)


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Those of a program.

    Attributes:
      items: each operation in the text once.
      unknown_loops: bodies of loops that hold collectives and of which the text does
        not say how often they run; counted once.
    """

    items: tuple[Collective, ...]
    unknown_loops: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of all runs of all, on each device."""
        return sum(item.total for item in self.items)

    def bytes_by_kind(self) -> dict[str, int]:
        """`total` of each kind that there is."""
        found: Counter[str] = Counter()
        for item in self.items:
            found[item.kind] += item.total
        return dict(found)


def read_collectives(text: str) -> Collectives:
    """The collectives of a compiled program.

    A TPU writes a reduce-scatter as a fusion, of an all-reduce and a slice; and one
    that runs beside arithmetic as a chain of fusions, each of which shows it again.

    Args:
      text: of `jax.stages.Compiled.as_text`.

    Returns:
      They, with the number of their runs.

    Raises:
      ValueError: the text is no HLO program.
    """
    program = parse(text)
    runs, unknown = count_runs(program)
    items, chains = [], set()
    open_loops = set()
    for name, times in runs.items():
        for instruction in program.computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            chain = _chain(instruction)
            if chain is not None and chain in chains:
                continue
            chains.add(chain)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            items.append(_collective(kind, instruction, name, program, times))
    if items:
        with_any = _holding_collectives(program)
        open_loops = {body for body in unknown if body in with_any}
    return Collectives(tuple(items), tuple(sorted(open_loops)))


def _chain(instruction: Instruction) -> tuple[str, str] | None:
    """What the fusions of one asynchronous collective have in common."""
    channel = re.search(r"\bchannel_id=(\d+)", instruction.attributes)
    chain = re.search(r'\bchain_id="(\d+)"', instruction.attributes)
    return (channel[1], chain[1]) if channel and chain else None


def _collective(
    kind: str, instruction: Instruction, name: str, program: Program, runs: int
) -> Collective:
    types = {i.name: i.type for i in program.computations[name]}
    operands = [array for name in instruction.operands for array in arrays(types[name])]
    # The last operands of this kind are offsets and sizes; only the first is sent.
    operands = operands[:1] if kind == "ragged-all-to-all" else operands
    dtypes = {dtype for dtype, _, _ in operands}
    group = 2
    if kind != "collective-permute":
        group = _group_size(instruction.attributes) or program.devices
    size = sum(bits * count for _, bits, count in operands) // 8
    where = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Collective(
        kind=kind,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        group=group,
        bytes=size * (group if kind == "all-gather" else 1),
        runs=runs,
        where=where[1] if where else "",
    )


def _group_size(attributes: str) -> int | None:
    """Devices in a group, of each way in which XLA writes groups; None: all devices.

    Raises:
      ValueError: it is another way.
    """
    _, found, groups = attributes.partition("replica_groups=")
    if not found or groups.startswith("{}"):
        return None
    if match := re.match(r"\[\d+,(\d+)\]", groups):
        return int(match[1])  # [groups, size]<=[devices]
    if match := re.match(r"\{\{([\d,]+)\}", groups):
        return len(match[1].split(","))  # {{0,1},{2,3}}
    # mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}
    if match := re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", groups):
        sizes = dict(pair.split("=") for pair in split_list(match[1].replace(" ", "")))
        return _product_of_axes(split_list(match[2].replace(" ", "")), sizes)
    raise ValueError(
        f"groups of devices in a notation that is not known: {groups[:80]}"
    )


def _product_of_axes(axes: Sequence[str], sizes: Mapping[str, str]) -> int:
    """Of axes of a mesh, `'a'`, or parts of them, `'a':(before)size`."""
    size = 1
    for axis in axes:
        part = re.fullmatch(r".*:\(\d+\)(\d+)", axis)
        size *= int(part[1] if part else sizes[axis])
    return size


def _holding_collectives(program: Program) -> set[str]:
    """Computations that hold a collective, or run one that does."""
    found: set[str] = set()

    def holds(name: str) -> bool:
        if name in found:
            return True
        for instruction in program.computations.get(name, ()):
            own = instruction.opcode.removesuffix("-start") in KINDS
            if own or any(holds(other) for other in called(instruction)):
                found.add(name)
                return True
        return False

    for name in program.computations:
        holds(name)
    return found
