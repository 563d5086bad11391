"""A plan as text, made of its JSON record."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SAMPLING = ("prefill", "decode")  # how programs of one engine begin
_PROGRAMS = (
    "program",
    "arguments",
    "temporaries",
    "peak",
    "beside it",
    "total GiB",
    "GFLOP",
    "HBM GB",
    "sent GB",
    "least ms",
    "bound by",
    "compiled s",
)


def describe(record: Mapping[str, Any]) -> Iterator[str]:
    """A plan in lines: the devices, programs, a step, and the verdict."""
    yield (
        f"{record['topology']}: {record['chips']} chips of {record['hbm_gib']:.2f} "
        f"GiB; learner on ({_mesh(record)}), {record['engines']} engines of "
        f"{record['tensor']} devices"
    )
    yield record["attention"]
    if record["note"]:
        yield f"note: {record['note']}"
    yield ""
    yield from _columns([_PROGRAMS, *map(_program, record["programs"])])
    for program in record["programs"]:
        if len(program["collectives"]) > 0:
            kinds = sorted(program["collectives"].items(), key=lambda kv: -kv[1])
            text = ", ".join(f"{kind} {size / 1e9:.3g} GB" for kind, size in kinds)
            yield f"{program['name']}: {text}"
    yield "of one device, a call; bytes of collectives are those of their arrays"
    yield ""
    heads = ("phase of a step", "calls", "compute s", "HBM s", "network s", "bound by")
    yield from _columns([heads, *map(_phase, record["phases"])])
    yield ""
    yield from verdict(record)


def verdict(record: Mapping[str, Any]) -> Iterator[str]:
    """Whether it fits, what would have to change, and what a step costs."""
    limit, peak = record["hbm_gib"], record["peak_gib"]
    yield (
        f"memory: {peak:.2f} of {limit:.2f} GiB, in {record['fullest']} (by formula "
        f"{record['formula_gib']:.2f})"
    )
    failing = [p for p in record["programs"] if not p["fits"]]
    if not failing:
        yield "sampler and learner fit together"
    for program in failing:
        if program["error"]:
            yield from _failure(record, program)
        elif program["peak_gib"] <= limit and program["argument_gib"] > 0:
            yield (
                f"{program['name']} does not fit beside what is held: "
                f"{program['peak_gib']:.2f} + {program['held_gib']:.2f} GiB"
            )
        else:
            yield f"{program['name']} does not fit: {program['peak_gib']:.2f} GiB"
    if record["gin"]:
        yield f"{'fits' if record['fits'] else 'does not fit even'} with:"
        yield from (f"  {line}" for line in record["gin"])
    elif failing:
        yield "--suggest tries what may help"
    if record["step_seconds"] is None:
        yield "no time of a step: not all programs compile"
        return
    share = f"{record['efficiency']:.0%}"
    yield (
        f"a step: {record['roofline_seconds']:.1f} s at the chips' figures, "
        f"{record['step_seconds']:.1f} s at {share} of them: "
        f"{record['chip_hours_per_step']:.2f} chip-hours"
    )
    yield (
        f"{record['num_steps']} steps: {record['chip_hours']:.0f} chip-hours, "
        f"{record['num_steps'] * record['step_seconds'] / 3600:.1f} hours"
    )


def _failure(record: Mapping[str, Any], program: Mapping[str, Any]) -> Iterator[str]:
    name, mesh = program["name"], _mesh(record)
    yield f"{name} does not compile: {program['error']}"
    if name.startswith(_SAMPLING):
        yield (
            f"  on {record['tensor']} devices; try another sampling.EngineConfig.tensor"
        )
    else:
        yield f"  on ({mesh}); try other sizes in parallelism.MeshConfig"


def _mesh(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {size}" for name, size in record["mesh"].items())


def _program(found: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = ("argument_gib", "temporary_gib", "peak_gib", "held_gib", "total_gib")
    return (
        found["name"],
        *(f"{found[name]:.2f}" for name in sizes),
        f"{found['flops'] / 1e9:.4g}",
        f"{found['hbm_bytes'] / 1e9:.3g}",
        f"{found['collective_bytes'] / 1e9:.3g}",
        f"{1e3 * found['roofline_seconds']:.3g}",
        found["binds"],
        f"{found['compile_seconds']:.0f}",
    )


def _phase(found: Mapping[str, Any]) -> tuple[str, ...]:
    kinds = ("compute", "memory", "network")
    return (
        found["name"],
        str(found["calls"]),
        *(f"{found['seconds'][kind]:.2f}" for kind in kinds),
        found["binds"],
    )


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first and any column of words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
