"""One `ask`: loads the policy, runs the loop, records it, and prints the answer."""

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig, longest_turn
from gru_mem_jax.agent.document import Document
from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.agent.loop import INTERRUPTED, Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Generator, Request
from gru_mem_jax.agent.trajectory import Trajectory, trajectory_from_dict
from gru_mem_jax.cli import json_output, runtime, signals, terminal
from gru_mem_jax.cli.display import Header, View, make_view
from gru_mem_jax.cli.recorder import Recorder, fingerprint
from gru_mem_jax.data.files import read_json
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.policy.files import PolicyDir
from gru_mem_jax.runs.compilation import CompilationNotices
from gru_mem_jax.version import __version__

if TYPE_CHECKING:
    from gru_mem_jax.sampling.prefix_store import PrefixStore

# Metadata that must be equal, with the agent's settings, to resume a run.
_SAME_RUN = ("policy_fingerprint", "dtype", "trace")
_SAMPLE_BYTES = 1 << 16


def ask(
    args: argparse.Namespace,
    directory: PolicyDir,
    config: AgentConfig,
    engine_config: Any,
    pieces: Iterator[str],
    target: json_output.Target,
) -> int:
    """Loads the policy, asks, and prints the answer.

    Returns:
      The exit status.
    """
    saved = _saved_trajectory(args, target)
    with make_view() as view:
        runtime.start()
        with _announced(view):
            encoder, generator, dtype = load(
                directory, args.question, config, engine_config, view, cache_of(args)
            )
            metadata = {
                "policy": args.policy,
                "policy_commit": directory.commit,
                "policy_fingerprint": fingerprint(directory.root),
                "context": args.context,
                "dtype": dtype,
                "trace": args.trace,
                "version": __version__,
            }
            if saved is not None:
                _check_same_run(saved, metadata)
            characters = characters_of(args.context)
            # Of a file any chunk can be read ahead; a stream may have to be waited for.
            whole = config.reads_ahead and characters is not None
            context = Document(pieces) if whole else pieces
            recurrence = Recurrence(
                PromptBuilder(encoder, config.prompt),
                config,
                args.question,
                context,
                trace=args.trace,
                resume=saved,
                metadata=metadata,
            )
            header = Header(
                question=args.question,
                source="stdin" if args.context == "-" else args.context,
                policy=args.policy,
                mode=config.mode,
                memory_budget=config.memory_tokens,
                characters=characters,
            )
            read(generator, recurrence, header, view, Recorder(target))
    if not target.is_stdout:
        _print_answer(recurrence.trajectory)
    return 0


def read(
    generator: Generator,
    recurrence: Recurrence,
    header: Header,
    view: View,
    recorder: Recorder,
) -> None:
    """Runs the recurrence to its end, or to a signal or an error.

    Raises:
      KeyboardInterrupt, Terminated: after the turns so far were recorded as
        interrupted; the message says how to resume.
      BrokenPipeError: likewise; the output has no reader any more.
      RunError: likewise; the generator gave up a request.
      Exception: any other error, after new turns were recorded.
    """
    view.begin(header, recurrence.trajectory)
    before = len(recurrence.trajectory.turns)
    try:
        for _, turn in driver.run(generator, [recurrence]):
            if turn is not None:
                recorder.save(recurrence.trajectory)
                view.turn(turn, recurrence.trajectory)
    except (KeyboardInterrupt, signals.Terminated) as e:
        recurrence.stop(INTERRUPTED)
        recorder.finish(recurrence.trajectory)
        view.end(recurrence.trajectory)
        raise type(e)(_how_to_resume(recurrence.trajectory, recorder)) from None
    except BaseException:
        recurrence.stop(INTERRUPTED)
        if len(recurrence.trajectory.turns) > before:
            recorder.finish(recurrence.trajectory)
        raise
    recorder.finish(recurrence.trajectory)
    view.end(recurrence.trajectory)
    if (failure := recurrence.trajectory.failure) is not None:
        raise RunError(f"{failure}; {_how_to_resume(recurrence.trajectory, recorder)}")


class Cache(NamedTuple):
    """--cache and --cache_gib: the folder, and most bytes of it."""

    folder: str
    most: int


def cache_of(args: argparse.Namespace) -> Cache | None:
    """What the flags say; None: no cache."""
    if args.cache is None:
        return None
    from gru_mem_jax.sampling.prefix_store import DISK_BYTES, GIB

    most = DISK_BYTES if args.cache_gib is None else round(args.cache_gib * GIB)
    return Cache(args.cache, most)


def load(
    directory: PolicyDir,
    question: str,
    config: AgentConfig,
    engine_config: Any,
    view: View,
    cache: Cache | None = None,
) -> tuple[Encoder, Generator, str]:
    """The encoder, the engine on the loaded policy, and its dtype.

    Weights are read last, after all other checks.

    Raises:
      PolicyError: the directory cannot be loaded.
      InputError: the budgets exceed a prompt, the question its budget, or the engine
        the memory.
    """
    view.status("loading the tokenizer")
    from gru_mem_jax.parallelism import MeshConfig, make_mesh
    from gru_mem_jax.policy.functional import make_policy
    from gru_mem_jax.policy.hf import load_config, load_policy
    from gru_mem_jax.sampling import engine_pool
    from gru_mem_jax.sampling.footprint import (
        check_engine_fits,
        engine_dtype,
        size_note,
        slots_note,
        with_fitting_slots,
        with_tensor,
    )
    from gru_mem_jax.sampling.prefix_store import with_trunks
    from gru_mem_jax.tokenization import TextTokenizer

    encoder = TextTokenizer.from_pretrained(directory.root)
    shape = load_config(directory)
    encoder.check_rows(shape.vocab_size)
    builder = PromptBuilder(encoder, config.prompt)
    Recurrence(builder, config, question, "")  # checks budgets and question
    positions = longest_turn(builder, config)
    dtype = engine_dtype(engine_config)
    # Sized by the budgets, not the question: the next one reuses the programs.
    whole = engine_config.sized_for(positions)
    # One question has one engine: on one device, or on as many as hold it.
    devices = list(engine_pool.local_mesh().devices.flat)
    policy = make_policy(shape)
    whole = with_tensor(policy, whole, devices)
    devices = devices[: whole.tensor]
    engine_config = with_fitting_slots(policy, whole, devices)
    keeps = cache is not None or config.keeps_chunks
    if keeps or config.reads_ahead:
        engine_config = with_trunks(engine_config, builder, config)
    check_engine_fits(policy, engine_config, dtype, devices)
    for line in (
        slots_note(policy, whole, engine_config, devices),
        size_note(policy, engine_config, devices),
    ):
        if line is not None:
            view.note(line)
    window = shape.max_position_embeddings
    if positions > window:
        view.note(
            f"note: a turn may need {positions} positions, the policy was trained for "
            f"{window}; lower --chunk_size"
        )
    if cache is not None:
        view.status("comparing the policy with the cache")
    store = make_store(directory, config, dtype, cache, view) if keeps else None
    view.status("loading the policy")
    mesh = make_mesh(MeshConfig(tensor=-1), devices)
    at = mesh if mesh.size > 1 else None
    loaded = load_policy(directory.root, dtype, mesh=at, form="sampling")
    engine = engine_pool.make(*loaded, engine_config, encoder, mesh, store)
    # What was read ahead must still be there in the next turn, and turns that run side
    # by side share what they can.
    if config.reads_ahead or config.mode == "parallel":
        return encoder, engine, dtype
    return encoder, Forgetful(engine), dtype


def make_store(
    directory: PolicyDir,
    config: AgentConfig,
    dtype: str,
    cache: Cache | None,
    view: View,
) -> "PrefixStore":
    """Where keys of chunks are kept: for the next pass in memory, for others in files.

    What has no room in memory is computed again. Of a text that is longer than the
    memory the first part stays: each pass would find nothing of one whose oldest part
    had left.
    """
    from gru_mem_jax.sampling.prefix_store import PrefixStore, default_memory_bytes

    memory = default_memory_bytes() if config.keeps_chunks else 0
    if cache is None:
        return PrefixStore("of one engine", memory, evicts=False)
    return PrefixStore.for_policy(
        directory,
        dtype,
        cache.folder,
        memory,
        disk_bytes=cache.most,
        on_note=view.note,
    )


class Forgetful:
    """An engine that reuses nothing from one turn to the next, but what is stored.

    A prefix from an earlier turn may differ in its last bits. Without it, and where
    nothing is stored (no cache, no second pass over kept chunks), a turn's numbers
    depend only on its request, and a resumed run equals an uninterrupted one bit for
    bit. A single question that is read in order loses little speed.
    """

    def __init__(self, engine: Any):
        self._engine = engine
        self.step, self.cancel = engine.step, engine.cancel

    @property
    def capacity(self) -> int:
        """One, since other requests would affect a request's last bits."""
        return 1

    def submit(self, request: Request) -> int:
        """As the engine's, after a reset."""
        self._engine.reset()
        return self._engine.submit(request)


def characters_of(context: str) -> int | None:
    """The approximate number of characters of a file; None for a stream."""
    if context == "-":
        return None
    try:
        with open(context, "rb", opener=_open_nonblocking) as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode):
                return None
            sample = f.read(_SAMPLE_BYTES)
    except OSError:
        return None
    share = len(sample.decode("utf-8", errors="ignore")) / max(1, len(sample))
    return round(info.st_size * share)


def _open_nonblocking(path: str, flags: int) -> int:
    """Refuses pipes: opening one would wait for a writer, or take its data."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is no regular file")
    return os.open(path, flags)


def _saved_trajectory(
    args: argparse.Namespace, target: json_output.Target
) -> Trajectory | None:
    """The trajectory to resume from; None: start a new one."""
    if not args.resume:
        return None
    if target.path is None or not target.path.exists():
        terminal.note(f"nothing to resume: {args.json} does not exist; starting anew")
        return None
    try:
        return trajectory_from_dict(read_json(str(target.path))[0])
    except InputError as e:
        raise InputError(f"--resume: {args.json}: {e}") from None


def _check_same_run(saved: Trajectory, metadata: dict[str, Any]) -> None:
    for name in _SAME_RUN:
        if saved.metadata.get(name) != metadata[name]:
            raise InputError(
                f"cannot resume: {name} was {saved.metadata.get(name)!r}, now it is "
                f"{metadata[name]!r}; give the same command, or start without --resume"
            )


def _announced(view: View) -> CompilationNotices:
    return CompilationNotices(view.compiling, view.compiled)


def _how_to_resume(trajectory: Trajectory, recorder: Recorder) -> str:
    turns = len(trajectory.turns)
    if recorder.path is None:
        return f"after {turns} turns"
    return (
        f"{turns} turns are in {recorder.path}; resume by the same command and --resume"
    )


def _print_answer(trajectory: Trajectory) -> None:
    """Prints the answer, or the text of the answer turn if no box holds one."""
    answer = terminal.safe_text(trajectory.answer or "").strip()
    if not answer:
        answer = terminal.safe_text(trajectory.turns[-1].text).strip()
        rest = "; its whole text follows" if answer else ", nor any other text"
        terminal.note(
            r"note: no answer: the answer turn has no \boxed{} that is not empty" + rest
        )
    if answer:  # an empty line would look like one
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
