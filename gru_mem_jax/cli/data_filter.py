"""Copy a set without the questions that a policy answers without the document.

The policy is asked each question with an empty memory: once, taking the likeliest
tokens, or --samples times at temperature 1. A question that any of its answers is right
for is dropped, as MemAgent does before training. The same command goes on where it was
interrupted, answer by answer.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gru_mem_jax.cli import arguments, terminal
from gru_mem_jax.errors import InputError

if TYPE_CHECKING:
    from gru_mem_jax.data import Dataset
    from gru_mem_jax.data.builders.filtered import Attempt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    add = parser.add_argument
    count = arguments.integer(least=1)
    add("path", type=arguments.path, metavar="DIR", help="of gru-mem data build")
    add(
        "--policy",
        type=arguments.path,
        metavar="DIR",
        required=True,
        help="a Hugging Face directory, or hf://org/name@revision",
    )
    add("--out", type=arguments.path, metavar="DIR", required=True, help="the new set")
    add("--samples", type=count, default=1, metavar="N", help="answers; default 1")
    add("--seed", type=arguments.integer(least=0), default=0, metavar="S")
    add("--slots", type=count, default=16, metavar="N", help="questions side by side")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from gru_mem_jax.cli import runtime
    from gru_mem_jax.cli.data_build import going_on
    from gru_mem_jax.data.builders import build
    from gru_mem_jax.data.builders.filtered import FilteredSet
    from gru_mem_jax.data.dataset import first_length, open_dataset

    dataset = open_dataset(args.path, first_length(args.path))
    runtime.start()
    asking = _Asking(args)
    why = asking.why(dataset)
    if _is_done(args.out, why):
        terminal.note("exists, and is what was asked for")
        print(args.out)
        return 0
    with going_on(), _answers(pathlib.Path(args.out), why) as (known, keep):
        solved = _asked(dataset, asking, known, keep)
        kept = tuple(i for i in range(len(dataset)) if i not in solved)
        terminal.note(
            f"{len(solved)} of {len(dataset)} questions are answered without the "
            f"document; {len(kept)} are kept"
        )
        if not kept:
            raise InputError(
                f"{args.path}: {args.policy} answers every question without the "
                "document; nothing is left"
            )
        build(FilteredSet(path=args.path, kept=kept, why=why), args.out)
    print(args.out)
    return 0


def _is_done(out: str, why: dict[str, Any]) -> bool:
    """Whether the new set is there.

    Raises:
      InputError: something else is.
    """
    from gru_mem_jax.data.dataset_files import MANIFEST, read_manifest
    from gru_mem_jax.records import first_difference

    folder = pathlib.Path(out)
    if not (folder / MANIFEST).exists():
        arguments.check_folder("--out", out, new=True)
        return False
    found = read_manifest(folder).recipe.get("filter")
    if difference := first_difference(found, why, "filter"):
        raise InputError(
            f"--out: {out} holds another set: {difference}; give another folder"
        )
    return True


class _Asking:
    """A policy that is asked; its weights are read when the first answer is needed."""

    def __init__(self, args: argparse.Namespace):
        from gru_mem_jax.agent.prompts import PromptBuilder
        from gru_mem_jax.policy.agent_settings import policy_settings
        from gru_mem_jax.policy.files import open_policy_dir
        from gru_mem_jax.tokenization import TextTokenizer

        self.directory = open_policy_dir(args.policy)
        self.samples, self.seed, self._slots = args.samples, args.seed, args.slots
        agent = policy_settings(self.directory)
        sampling = dataclasses.replace(
            agent.sampling,
            temperature=float(args.samples > 1),
            top_k=0,
            top_p=1.0,
            seed=args.seed,
        )
        self.agent = dataclasses.replace(agent, sampling=sampling)
        encoder = TextTokenizer.from_pretrained(self.directory.root)
        self.builder = PromptBuilder(encoder, self.agent.prompt)

    def why(self, dataset: "Dataset") -> dict[str, Any]:
        """All that the answers depend on; JSON values."""
        from gru_mem_jax.agent.config import config_to_dict
        from gru_mem_jax.runs.checkpoints.store import weights_digest

        return {
            "set_sha256": dataset.fingerprint,
            "weights_sha256": weights_digest(self.directory),
            "samples": self.samples,
            "agent": config_to_dict(self.agent),
        }

    def engine(self) -> Any:
        """The warm engine."""
        from gru_mem_jax.agent.parts import make_engine
        from gru_mem_jax.agent.turn_form import turn_constraint
        from gru_mem_jax.policy.hf import load_policy
        from gru_mem_jax.sampling.config import EngineConfig
        from gru_mem_jax.sampling.footprint import engine_dtype

        dtype = engine_dtype(EngineConfig())
        loaded = load_policy(self.directory.root, dtype, form="sampling")
        engine: Any = make_engine(loaded, self.builder, self.agent, self._slots, None)
        terminal.note("compiling the sampling programs")
        engine.warm_up(
            constraints=[turn_constraint(self.builder, self.agent, "answer")]
        )
        return engine


def _asked(
    dataset: "Dataset",
    asking: _Asking,
    known: "list[Attempt]",
    keep: "Callable[[Attempt], None]",
) -> set[int]:
    """Indices of the questions that some answer is right for."""
    from gru_mem_jax.data.builders.filtered import attempts

    done = {(each.index, each.sample) for each in known}
    solved = {each.index for each in known if each.score == 1}
    wanted = [
        (index, sample)
        for index in range(len(dataset))
        for sample in range(asking.samples)
        if (index, sample) not in done
    ]
    if known:
        terminal.note(f"{len(known)} answers were given before")
    if not wanted:
        return solved
    engine = asking.engine()
    with _bar(len(known), len(known) + len(wanted)) as advance:
        for each in attempts(engine, asking.builder, asking.agent, dataset, wanted):
            keep(each)
            if each.score == 1:
                solved.add(each.index)
            advance()
    return solved


@contextlib.contextmanager
def _answers(
    out: pathlib.Path, why: dict[str, Any]
) -> "Iterator[tuple[list[Attempt], Callable[[Attempt], None]]]":
    """While entered, the answers that were given before, and how to keep one.

    They are in .OUT.answers, which is removed at the end.

    Raises:
      InputError: another process asks for this folder; the answers are of another
        policy, set or setting.
    """
    from gru_mem_jax import durable_files
    from gru_mem_jax.records import first_difference, to_record
    from gru_mem_jax.runs.appended import open_appended
    from gru_mem_jax.runs.lock import FileLock

    out = pathlib.Path(os.path.abspath(out))
    folder = out.with_name(f".{durable_files.short_name(out)}.answers")
    with durable_files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
    path = folder / "answers.jsonl"
    try:
        with durable_files.writing(path):
            head, known = _read(path)
            if known and (found := first_difference(head, why)):
                raise InputError(
                    f"{folder}: holds answers of another filter: {found}; finish it "
                    "with these settings, or remove this folder"
                )
            lines = [why, *map(to_record, known)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            durable_files.write_atomically(path, text)
            file = open_appended(path)

        def keep(attempt: "Attempt") -> None:
            line = json.dumps(to_record(attempt)) + "\n"
            with durable_files.writing(path):
                file.append(line.encode())

        try:
            yield known, keep
        except BaseException:
            if not _read(path)[1]:
                path.unlink()
            raise
        finally:
            file.close()
        path.unlink()
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _read(path: pathlib.Path) -> "tuple[Any, list[Attempt]]":
    """What the answers depend on, and those lines that are whole."""
    from gru_mem_jax.data.builders.filtered import Attempt
    from gru_mem_jax.records import from_record

    head: Any = None
    known: list[Attempt] = []
    if not path.exists():
        return head, known
    with contextlib.suppress(ValueError, RecursionError):  # a line that was cut
        for number, line in enumerate(path.read_bytes().splitlines()):
            record = json.loads(line)
            if number == 0:
                head = record
            else:
                known.append(from_record(Attempt, record, "answer"))
    return head, known


@contextlib.contextmanager
def _bar(done: int, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, else a line a minute; called for each answer."""
    what, lines = "asking without the document", terminal.EachMinute()
    with terminal.progress_bar() as bar:
        task = bar.add_task(what, total=total, completed=done)

        def answer() -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            lines.note(f"{what}, {done} of {total} answers")

        yield answer
