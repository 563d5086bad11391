"""Plans the hardware files for TPU slices, and writes the tables of docs/pods.md.

    python -m gru_mem_jax.planning.table                  # plan what has none, write
    python -m gru_mem_jax.planning.table --again v5e_4x4  # plan some again, write
    python -m gru_mem_jax.planning.table --write_only

Each plan is a process of its own, `gru-mem plan --json docs/plans/NAME.json`: minutes
for each program of a large policy. The tables are made of what these files say.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gru_mem_jax.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[2]
HARDWARE = ROOT / "gin/hardware"
PLANS = ROOT / "docs/plans"
PAGE = ROOT / "docs/pods.md"
BEGIN, END = "<!-- plan table: begin -->", "<!-- plan table: end -->"
_COMMAND = re.compile(r"gru-mem plan (.*)")


def files() -> dict[str, pathlib.Path]:
    """The hardware files whose header has a command to plan them, by name."""
    found = sorted(HARDWARE.glob("*.gin"))
    return {f.stem: f for f in found if "gru-mem plan" in f.read_text("utf-8")}


def command(file: pathlib.Path) -> list[str]:
    """The flags of `gru-mem plan` that a hardware file's header says."""
    header = re.sub(r"\\\n#\s*", "", file.read_text("utf-8"))
    match = _COMMAND.search(header)
    if match is None:
        raise InputError(f"{file}: its header has no command gru-mem plan")
    return match[1].split()


def records() -> dict[str, dict[str, Any]]:
    """The plans that there are, by name of their hardware file."""
    names = [name for name in files() if (PLANS / f"{name}.json").is_file()]
    return {n: json.loads((PLANS / f"{n}.json").read_text("utf-8")) for n in names}


def tables(plans: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: what each run takes, and where its time goes."""
    heads = "file of gin/hardware", "slice", "learner", "engines", "memory, GiB"
    heads += (
        "by formula",
        "step at 100%",
        "at 40%",
        "chip-hours a step",
        "compiled",
    )
    yield from _markdown([heads, *(_of_run(*item) for item in plans.items())])
    yield ""
    phases = list(dict.fromkeys(p["name"] for r in plans.values() for p in r["phases"]))
    rows = [("seconds at 100%", *phases)]
    for name, record in plans.items():
        found = {p["name"]: p for p in record["phases"]}
        texts = (_of_phase(found.get(phase)) for phase in phases)
        rows.append((f"`{name}`", *texts))
    yield from _markdown(rows)
    yield ""
    yield (
        "c, m, n: bound by compute, memory or network. Memory is that of the fullest "
        "device while the named program runs, with all that stays beside it."
    )


def write(page: pathlib.Path, lines: Sequence[str]) -> None:
    """Puts lines between the markers of a page.

    Raises:
      InputError: the page has no markers.
    """
    text = page.read_text("utf-8") if page.is_file() else ""
    if BEGIN not in text or END not in text:
        raise InputError(f"{page}: no lines {BEGIN} and {END} to write between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    body = "\n".join(lines)
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", "utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Plans what has no plan or is asked for, and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--again", metavar="TEXT", help="in the name of a file")
    parser.add_argument("--write_only", action="store_true", help="compile nothing")
    args = parser.parse_args(argv)
    known = records()
    failed = []
    for name, file in files().items():
        again = args.again is not None and args.again in name
        if not args.write_only and (again or name not in known):
            status = plan(name, command(file))
            if status:
                failed.append(f"gru-mem plan of {name} ended with status {status}")
            write(PAGE, list(tables(records())))
    plans = records()
    missing = sorted(files().keys() - plans.keys())
    for line in (*failed, *(f"no plan of {name} yet" for name in missing)):
        print(line, file=sys.stderr)
    write(PAGE, list(tables(plans)))
    return 1 if failed else 0


def plan(name: str, flags: Sequence[str]) -> int:
    """Plans in a process of its own.

    Args:
      name: of the hardware file.
      flags: of `gru-mem plan`.

    Returns:
      Its exit status; with 0 there is a record of the plan.
    """
    PLANS.mkdir(exist_ok=True)
    target = PLANS / f"{name}.json"
    words = [sys.executable, "-m", "gru_mem_jax.cli.main", "plan", *flags]
    done = subprocess.run([*words, "--json", str(target)], cwd=ROOT, check=False)
    return done.returncode


def _of_run(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    mesh = " x ".join(f"{k} {v}" for k, v in record["mesh"].items() if v > 1)
    verdict = "" if record["fits"] else ": does not fit"
    broken = [p["name"] for p in record["programs"] if p.get("error")]
    if broken:
        verdict = f": {', '.join(broken)} does not compile"
    step, least = record["step_seconds"], record["roofline_seconds"]
    hours = record["chip_hours_per_step"]
    clock, times = "CPU", [p["compile_cpu_seconds"] for p in record["programs"]]
    if None in times:  # not measured
        clock, times = "wall", [p["compile_seconds"] for p in record["programs"]]
    return (
        f"`{name}`",
        record["topology"],
        mesh,
        f"{record['engines']} x {record['tensor']}",
        f"{record['peak_gib']:.1f} of {record['hbm_gib']:.1f}, {record['fullest']}"
        + verdict,
        f"{record['formula_gib']:.1f}",
        "-" if least is None else f"{least:.1f} s",
        "-" if step is None else f"{step:.0f} s",
        "-" if hours is None else f"{hours:.2f}",
        f"{sum(times):.0f} s {clock}",
    )


def _of_phase(phase: Mapping[str, Any] | None) -> str:
    if phase is None:
        return "-"
    return f"{phase['roofline_seconds']:.2f} {phase['binds'][0]}"


def _markdown(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *body = rows
    for row in (head, ("---",) * len(head), *body):
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.exit(main())
