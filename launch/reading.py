"""Small steps of launch/reading.sh, which calls it; needs gru_mem_jax.

reading.py estimate BENCH --parts ... --modes ... [...]   seconds of each stage
reading.py finished RUN STEPS                   status 1 if the run has not so many
reading.py tables OUT                           what was evaluated, as tables
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gru_mem_jax.evaluation import ResultsFolder
from gru_mem_jax.evaluation.statistics import Difference, interval, paired
from gru_mem_jax.tiny import synthetic

ASKED = ("memagent", "without_exit_gate", "with_exit_gate", "reread", "parallel")
# Turns for a chunk of the text, in the mean over the tasks, and tokens of one.
TURNS = dict(zip(ASKED, (1.0, 1.0, 0.7, 2.1, 1.8), strict=True))
TOKENS = dict(zip(ASKED, (22.0, 14.0, 15.0, 14.0, 14.0), strict=True))
PROMPT = 110
# One question at a time decodes at a fifth of the rate; in parallel all slots are busy.
ALONE = dict(zip(ASKED, (5.0, 5.0, 5.0, 5.0, 1.2), strict=True))
TRAINED_ON = 8  # chunks
LEARNING = 1.2  # of the time of sampling
ROLLOUTS = 64  # of a step
START_TOKENS = 1280  # of a supervised step, each thrice the work of prefill

Row = Mapping[str, Any]


def estimated(bench: pathlib.Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of each stage, by the rates of a short benchmark."""
    rates = json.loads(bench.read_text())
    prefill = 1 / rates["prefill_tokens_per_s"]
    decode = 1 / rates["decode_tokens_per_s"]

    def turns(mode: str, chunks: float) -> float:
        return TURNS[mode] * chunks * (PROMPT * prefill + TOKENS[mode] * decode)

    def alone(mode: str, chunks: float) -> float:
        each = PROMPT * prefill + ALONE[mode] * TOKENS[mode] * decode
        return TURNS[mode] * chunks * each

    found = {}
    if "one" in args.parts:
        chunks = len(synthetic.TASKS) * args.long_chunks
        found["one"] = sum(
            args.questions * turns(mode, chunks) + args.alone * alone(mode, chunks)
            for mode in ASKED
        )
    if args.start_steps:
        tokens = args.seeds * args.start_steps * START_TOKENS
        found["starts"] = 3 * tokens * prefill
    arms = args.modes if {"training", "bridge"} & set(args.parts) else []
    for mode in arms:
        steps = args.seeds * args.steps * ROLLOUTS
        found[f"runs of {mode}"] = (1 + LEARNING) * steps * turns(mode, TRAINED_ON)
    starts = args.seeds if args.start_steps else 1
    for arm, count in [("start", starts), *((mode, args.seeds) for mode in arms)]:
        if "training" in args.parts:
            chunks = count * args.questions * len(synthetic.TASKS) * TRAINED_ON
            found[f"tasks of {arm}"] = sum(turns(mode, chunks) for mode in ASKED[1:])
        if "bridge" in args.parts:
            chunks = count * args.bridge_questions * args.gaps * args.bridge_chunks
            found[f"bridge of {arm}"] = sum(
                turns(mode, chunks)
                for mode in ("without_exit_gate", "reread", "parallel")
            )
    return found


def print_estimate(bench: pathlib.Path, args: argparse.Namespace) -> None:
    """Prints minutes of each stage, and of all."""
    found = estimated(bench, args)
    for name, seconds in found.items():
        print(f"{name:<28}{seconds / 60:>8.1f} min, estimated")
    print(f"{'all':<28}{sum(found.values()) / 60:>8.1f} min, estimated")


def finished(run: str, steps: int) -> bool:
    """Whether the last row of a run's metrics is that of its last step."""
    path = pathlib.Path(run, "metrics.jsonl")
    rows = path.read_text().splitlines() if path.exists() else []
    return bool(rows) and json.loads(rows[-1])["step"] >= steps


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f}"


def scored(scores: Sequence[float]) -> str:
    """The mean of scores in percent, with its 95% interval."""
    low, high = interval(list(scores))
    return f"{percent(sum(scores) / len(scores))} ({percent(low)}–{percent(high)})"


def difference(found: Difference) -> str:
    """A paired difference in points, with its 95% interval."""
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.mean:+.1f} ({low:+.1f} to {high:+.1f})"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


class Asked:
    """The scores of an evaluation: by set, label and mode, then by question.

    Args:
      folder: of `gru-mem eval`.
      label: of a set, which tells those of one name apart.
    """

    def __init__(self, folder: pathlib.Path, label: str):
        self.scores: dict[tuple[str, Any, str], dict[tuple[str, int], float]] = {}
        self.alone: dict[tuple[str, Any, str], list[float]] = {}
        self.steps: dict[tuple[str, Any, str], list[int]] = {}
        answers = ResultsFolder(folder).answers()
        self.policies = list(dict.fromkeys(answer.policy for answer in answers))
        for answer in answers:
            key = (answer.set, answer.labels.get(label), answer.mode)
            at = (answer.policy, answer.index)
            self.scores.setdefault(key, {})[at] = answer.score
            if answer.seconds_alone is not None:
                self.alone.setdefault(key, []).append(answer.seconds_alone)
            if answer.steps_alone is not None:
                self.steps.setdefault(key, []).append(answer.steps_alone)
        self.modes = [m for m in ASKED if any(key[2] == m for key in self.scores)]
        self.sets = sorted(
            {key[:2] for key in self.scores},
            key=lambda each: (each[1], synthetic.TASKS.index(each[0])),
        )

    def means(self, where: tuple[str, Any], mode: str) -> dict[int, float]:
        """The score of each question, its mean over the policies."""
        found: dict[int, list[float]] = {}
        for (_, index), score in self.scores.get((*where, mode), {}).items():
            found.setdefault(index, []).append(score)
        return {index: sum(own) / len(own) for index, own in found.items()}

    def cell(self, where: tuple[str, Any], mode: str) -> str:
        """Mean and interval over the questions, and each policy's mean."""
        means = self.means(where, mode)
        if not means:
            return "–"
        text = scored(list(means.values()))
        if len(self.policies) > 1:
            every = self.scores[(*where, mode)]
            for number, policy in enumerate(self.policies):
                own = [score for at, score in every.items() if at[0] == policy]
                text += ":" if not number else ""
                text += f" {percent(sum(own) / len(own))}" if own else " –"
        return text


def compared(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    """The difference of two scores on the questions of both."""
    both = [index for index in first if index in second]
    if not both:
        return "–"
    return difference(paired([first[i] for i in both], [second[i] for i in both]))


def one_question(asked: Asked) -> str:
    """Score, time and steps of one question, in each mode; and parallel's gain."""
    rows, gains = [], []
    for where in asked.sets:
        seconds, steps = (
            {
                m: sum(own) / len(own)
                for m in asked.modes
                if (own := of.get((*where, m)))
            }
            for of in (asked.alone, asked.steps)
        )
        cells = [
            asked.cell(where, mode)
            + (f", {1000 * seconds[mode]:.0f} ms" if mode in seconds else "")
            + (f", {steps[mode]:.0f} steps" if mode in steps else "")
            for mode in asked.modes
        ]
        rows.append([where[1], where[0], *cells])
        if "parallel" not in asked.modes:
            continue
        gain: list[object] = [where[1], where[0]]
        for mode in ("without_exit_gate", "with_exit_gate"):
            for of in (seconds, steps):
                both = mode in of and "parallel" in of
                gain.append(f"{of[mode] / of['parallel']:.1f}" if both else "–")
            change = compared(asked.means(where, "parallel"), asked.means(where, mode))
            gain.append(change)
        gains.append(gain)
    text = table(["chunks", "task", *asked.modes], rows)
    if gains:
        heads = ["chunks", "task"]
        for mode in ("without_exit_gate", "with_exit_gate"):
            heads += [f"times faster than {mode}", "times fewer steps", "points more"]
        text += "\nparallel beside the others:\n\n" + table(heads, gains)
    return text


def trained(arms: Mapping[str, Asked], label: str) -> str:
    """The arms of training in each mode, and the differences of each to the first."""
    first, *others = [name for name in arms if name != "start"] or list(arms)
    several = next(iter(arms.values()))
    rows = [
        [
            value,
            name,
            mode,
            *(asked.cell((name, value), mode) for asked in arms.values()),
        ]
        + [
            compared(
                arms[other].means((name, value), mode),
                arms[first].means((name, value), mode),
            )
            for other in others
        ]
        for name, value in several.sets
        for mode in several.modes
    ]
    heads = [label, "task", "read in", *(f"trained: {name}" for name in arms)]
    heads += [f"points of {other} over {first}" for other in others]
    return table(heads, rows)


def tables(out: pathlib.Path) -> str:
    """All tables of what is evaluated there."""
    folder = out / "evaluation"
    text = ""
    if (folder / "one" / "answers.jsonl").exists():
        text += (
            "One question: exact answers in %, and how long and how many decode steps "
            "it takes alone:\n\n"
        )
        text += one_question(Asked(folder / "one", "num_chunks"))
    for part, label, title in (
        ("tasks", "num_chunks", "After training, exact answers in %"),
        ("bridge", "gap", "Bridge gap, exact answers in %"),
    ):
        found = [(arm, folder / f"{part}_{arm}") for arm in ("start", *ASKED)]
        arms = {
            arm: Asked(path, label)
            for arm, path in found
            if (path / "answers.jsonl").exists()
        }
        if arms:
            text += f"\n{title} (95%; the seeds):\n\n" + trained(arms, label)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="what", required=True)
    part = parts.add_parser("estimate")
    part.add_argument("bench", type=pathlib.Path)
    for name in ("parts", "modes"):
        part.add_argument(f"--{name}", type=lambda text: text.split(","), required=True)
    counts = ("questions", "alone", "seeds", "steps", "start_steps", "long_chunks")
    for name in (*counts, "bridge_questions", "gaps", "bridge_chunks"):
        part.add_argument(f"--{name}", type=int, required=True)
    part = parts.add_parser("finished")
    part.add_argument("run")
    part.add_argument("steps", type=int)
    part = parts.add_parser("tables")
    part.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    if args.what == "estimate":
        print_estimate(args.bench, args)
    elif args.what == "finished":
        return 0 if finished(args.run, args.steps) else 1
    else:
        print(tables(args.out), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
