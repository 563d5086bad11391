"""The text of a compiled program, as XLA prints it for CPU and TPU.

    program = parse(compiled.as_text())
    runs, unknown = count_runs(program)

The text shows a loop's body once; how often it runs is told by the loop
(`known_trip_count`) or by the constant that its condition compares with.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # others end in their number of bits
_ARRAY = re.compile(r"\b(pred|token|opaque|bf16|[sufc]\d+(?:e\w+)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{\s*$")
# A kernel's own text, within a line of a program, may have lines that begin with }.
_END = re.compile(r"\}(, execution_thread=.*)?\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMMENT = re.compile(r"/\*[^*]*\*/")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_PAIRS = ("(", ")"), ("{", "}"), ("[", "]")


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name, opcode: e.g. "all-gather.3" and "all-gather".
      type: of the result, as text.
      operands: names; of a constant and a parameter, what stands in their place.
      attributes: the rest of the line.
      is_root: whether its result is the computation's.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


class Program(NamedTuple):
    """The text of a compiled program.

    Attributes:
      computations: instructions by the name of their computation.
      entry: the name of the one that runs.
      devices: that the program runs on.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    devices: int


def parse(text: str) -> Program:
    """The computations of a program's HLO text.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, lines = "", "", list[Instruction]()
    for line in text.splitlines():
        if not name:
            if match := _COMPUTATION.match(line):
                name, lines = match[2], []
                entry = name if match[1] else entry
        elif _END.match(line):
            computations[name], name = tuple(lines), ""
        elif match := _INSTRUCTION.match(_COMMENT.sub("", line)):
            lines.append(_instruction(match[2], match[3], is_root=bool(match[1])))
    if entry not in computations:
        raise ValueError("not the HLO text of a program: it has no entry computation")
    header = text[: text.find("\n")]
    devices = 1
    for count in ("replica_count", "num_partitions"):
        if match := re.search(rf"\b{count}=(\d+)", header):
            devices *= int(match[1])
    return Program(computations, entry, devices)


def count_runs(program: Program) -> tuple[dict[str, int], tuple[str, ...]]:
    """How often each computation runs in a call of the program.

    Of the branches of a condition each is counted, as if it ran.

    Returns:
      Runs by name, of those that run; and the bodies of loops whose number of runs the
      text does not tell, which are counted once.
    """
    runs: Counter[str] = Counter()
    unknown: dict[str, None] = {}

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for instruction in program.computations.get(name, ()):
            factor = 1
            if instruction.opcode == "while":
                trips = _trips(program, instruction)
                if trips is None:
                    unknown[_called(instruction, "body")[0]] = None
                factor = 1 if trips is None else trips
            for other in called(instruction):
                visit(other, times * factor)

    visit(program.entry, 1)
    known = {name: n for name, n in runs.items() if n and name in program.computations}
    return known, tuple(unknown)


def called(instruction: Instruction) -> tuple[str, ...]:
    """Computations that an instruction runs; none of those applied to elements."""
    attributes = {
        "while": ("body",),
        "conditional": (
            "branch_computations",
            "true_computation",
            "false_computation",
        ),
        "call": ("to_apply",),
        "fusion": ("calls",),
        "async-start": ("calls",),
    }.get(instruction.opcode, ())
    return tuple(n for name in attributes for n in _called(instruction, name))


def array_bytes(type_text: str) -> int:
    """Bytes of the arrays in a type, e.g. of "(bf16[2,8]{1,0}, s32[])"."""
    return sum(bits * count for _, bits, count in arrays(type_text)) // 8


def arrays(type_text: str) -> Iterator[tuple[str, int, int]]:
    """Name, bits of an element and number of elements of each array in a type."""
    for dtype, dims in _ARRAY.findall(type_text):
        count = 1
        for size in filter(None, dims.split(",")):
            count *= int(size)
        bits = _BITS.get(dtype)
        if bits is None:
            bits = int(re.findall(r"\d+", dtype)[0])
        yield dtype, bits, count


def _instruction(name: str, rest: str, *, is_root: bool) -> Instruction:
    """Of `TYPE opcode(operands), attributes`."""
    end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    type_text, rest = rest[:end], rest[end:].lstrip()
    start = rest.find("(")
    stop = start + _closing(rest[start:])
    # An operand is `%name`, or its type and then that.
    operands = [
        item.split()[-1].lstrip("%") for item in split_list(rest[start + 1 : stop])
    ]
    return Instruction(
        name=name,
        opcode=rest[:start].strip(),
        type=type_text,
        operands=tuple(operands),
        attributes=rest[stop + 1 :],
        is_root=is_root,
    )


def _closing(text: str) -> int:
    """Index of the bracket that closes the one which text begins with."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return len(text) - 1


def split_list(text: str) -> list[str]:
    """Splits at the commas outside of brackets; what is empty is left out."""
    parts, depth, begin = [], 0, 0
    for i, letter in enumerate(text):
        depth += sum((letter == a) - (letter == b) for a, b in _PAIRS)
        if letter == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [part for part in [*parts, text[begin:]] if part.strip()]


def _called(instruction: Instruction, attribute: str) -> list[str]:
    match = re.search(
        rf"\b{attribute}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", instruction.attributes
    )
    if match is None:
        return []
    return [name.strip().lstrip("%") for name in (match[1] or match[2]).split(",")]


def _trips(program: Program, loop: Instruction) -> int | None:
    """How often a loop's body runs; None: the text does not tell.

    Where only the condition tells, the loop is taken to count from 0, as those of
    `jax.lax.scan` do, and of `fori_loop` with bounds that are known; by 1, or as its
    body says: XLA writes a product beside the exchange of its parts by 2.
    """
    if match := _TRIPS.search(loop.attributes):
        return int(match[1])
    (condition,) = _called(loop, "condition")
    body = program.computations.get(condition, ())
    known = {i.name: i for i in body}
    root = next((i for i in body if i.is_root), None)
    if root is None:
        return None
    operands = root.operands
    if root.opcode == "fusion":
        (inner,) = _called(root, "calls")
        body = program.computations.get(inner, ())
        outer = {
            i.name: operands[int(i.operands[0])]
            for i in body
            if i.opcode == "parameter"
        }
        root = next((i for i in body if i.is_root), root)
        known |= {i.name: i for i in body if i.opcode == "constant"}
        operands = tuple(outer.get(name, name) for name in root.operands)
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    limit = known.get(operands[1])
    if limit is None or limit.opcode != "constant" or not limit.operands[0].isdigit():
        return None
    counter = known.get(operands[0])
    return math.ceil(int(limit.operands[0]) / _step(program, loop, counter))


def _step(program: Program, loop: Instruction, counter: Instruction | None) -> int:
    """What a loop's body adds to its counter; 1 where it does not say."""
    (name,) = _called(loop, "body")
    body = {i.name: i for i in program.computations.get(name, ())}
    root = next((i for i in body.values() if i.is_root), None)
    place = re.search(r"\bindex=(\d+)", counter.attributes) if counter else None
    if root is None or root.opcode != "tuple" or place is None:
        return 1
    new = body.get(root.operands[int(place[1])])
    if new is None or new.opcode != "add":
        return 1
    added = (body[name] for name in new.operands if name in body)
    steps = [i.operands[0] for i in added if i.opcode == "constant"]
    return int(steps[0]) if steps and steps[0].isdigit() and int(steps[0]) else 1
