"""Suites whose documents are synthetic: no file is needed."""

import functools
from collections.abc import Callable, Sequence

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.injection import KINDS, InjectedSource
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suite import QuestionSet, Suite
from gru_mem_jax.evaluation.suites.parts import MadeSuite, chosen
from gru_mem_jax.records import did_you_mean
from gru_mem_jax.tiny import attacks, synthetic
from gru_mem_jax.tiny.planted import PlantedSource
from gru_mem_jax.tiny.sources import SyntheticSource, SyntheticSuite
from gru_mem_jax.tiny.synthetic import SyntheticConfig

Contexts = tuple[tuple[str, int], ...]

# name: what it asks, and (placement, number of chunks) of its documents.
TINY_SUITES: dict[str, tuple[str, Contexts]] = {
    "tiny": ("five tasks in the manner of RULER", (("uniform", 8), ("first_20", 32))),
    "unbalanced": ("evidence in the first fifth", (("first_20", 32), ("first_20", 64))),
    "multihop": (
        "a code behind a link",
        (("uniform", 8), ("uniform", 32), ("uniform", 64)),
    ),
    "bridge": ("a link and its code, some chunks apart", (("uniform", 160),)),
    "injection": ("attacks in the document", (("uniform", 8),)),
}
# Suites whose questions can stand in the documents of data sets.
PLANTED = ("multihop", "bridge")
# Chunks by which the link lies after the code that it points to.
GAPS = (-128, -32, -8, 0, 8, 32, 128)
_SEED = 1000  # of `SyntheticSuite`


def make_tiny_suite(
    name: str,
    *,
    encoder: Callable[[], Encoder],
    chunk_size: int,
    tasks: Sequence[str] | None = None,
    lengths: Sequence[str] | None = None,
    contexts: Contexts | None = None,
    gaps: Sequence[int] | None = None,
    num_questions: int = 32,
    seed: int = _SEED,
) -> Suite:
    """A suite of synthetic questions.

    Args:
      name: of `TINY_SUITES`.
      encoder: opens the tokenizer, where attacks are to fit into chunks.
      chunk_size: of the agent; a chunk of a document has as many words and marks, at
        most 64.
      tasks: of the synthetic world; of "injection", kinds of attack. None: all.
      lengths: numbers of chunks, as text.
      contexts: (placement, number of chunks), instead of the suite's own.
      gaps: of "bridge".
      num_questions: of each set.
      seed: of the questions.

    Raises:
      InputError: a setting does not fit the suite.
    """
    if name not in TINY_SUITES:
        hint = did_you_mean(name, TINY_SUITES)
        raise InputError(f"unknown synthetic suite {name!r:.40}{hint}")
    if lengths is not None and contexts is not None:
        raise InputError("--lengths and --contexts are two ways to say one thing")
    if gaps is not None and name != "bridge":
        raise InputError(f"--gaps is for suite bridge, not for {name}")
    if contexts is None:
        contexts = TINY_SUITES[name][1]
    if lengths is not None:
        placement = contexts[0][0]
        contexts = tuple((placement, _chunks(text)) for text in lengths)
    chunk_tokens = min(chunk_size, 64)
    config = functools.partial(
        SyntheticConfig, chunk_tokens=chunk_tokens, split="test", seed=seed
    )
    if name == "bridge":
        if tasks not in (None, ("chain",)):
            raise InputError("--tasks: suite bridge has the task chain alone")
        return _bridge(config, contexts, GAPS if gaps is None else gaps, num_questions)
    if name == "injection":
        kinds = chosen(tasks, KINDS, name)
        return _injection(
            config, contexts, kinds, num_questions, encoder(), chunk_size, seed
        )
    known = ("chain",) if name == "multihop" else synthetic.TASKS
    return SyntheticSuite(
        tasks=chosen(tasks, known, name),
        contexts=contexts,
        num_questions=num_questions,
        chunk_tokens=chunk_tokens,
        seed=seed,
    )


def _chunks(text: str) -> int:
    number = text.removesuffix("chunks").strip()
    if not number.isdecimal() or not 0 < int(number) < 1 << 20:
        raise InputError(
            "--lengths: of synthetic documents expected a number of chunks, such as 8, "
            f"below {1 << 20}, got {text!r:.40}"
        )
    return int(number)


def _bridge(
    config: Callable[..., SyntheticConfig],
    contexts: Contexts,
    gaps: Sequence[int],
    num_questions: int,
) -> MadeSuite:
    """Documents of one length, which differ in the gap alone."""
    sets = tuple(
        QuestionSet(
            name="chain",
            source=SyntheticSource(
                config=config(
                    tasks=("chain",), placement=placement, num_chunks=chunks, gap=gap
                ),
                on_bad_record="error",
            ),
            count=num_questions,
            placement=placement,
            num_chunks=chunks,
            gap=gap,
        )
        for placement, chunks in contexts
        for gap in gaps
    )
    return MadeSuite(name="bridge", sets=sets)


def _injection(
    config: Callable[..., SyntheticConfig],
    contexts: Contexts,
    kinds: Sequence[str],
    num_questions: int,
    encoder: Encoder,
    chunk_size: int,
    seed: int,
) -> MadeSuite:
    """The tasks in equal parts, clean and with each kind of attack."""
    sets = []
    for placement, chunks in contexts:
        questions = config(placement=placement, num_chunks=chunks)
        clean = ListSource(
            examples=tuple(
                synthetic.generate(questions, index) for index in range(num_questions)
            )
        )
        for kind in (None, *kinds):
            sets.append(
                QuestionSet(
                    name="synthetic",
                    source=InjectedSource(
                        source=clean,
                        kind=kind,
                        encoder=encoder,
                        chunk_size=chunk_size,
                        seed=seed,
                        texts=attacks.wordings,
                    ),
                    placement=placement,
                    num_chunks=chunks,
                    attack=kind,
                )
            )
    return MadeSuite(name="injection", sets=tuple(sets))


def make_planted_suite(
    name: str,
    documents: Suite,
    *,
    encoder: Encoder,
    chunk_size: int,
    gaps: Sequence[int] | None = None,
    num_questions: int = 32,
    seed: int = _SEED,
) -> MadeSuite:
    """Questions on a link and its code, which stand in the documents of other sets.

    Args:
      name: of `PLANTED`.
      documents: a suite over finite sources; a set of questions for each of its sets.
      encoder, chunk_size: of the policy.
      gaps: of "bridge".
      num_questions: of each set.
      seed: of the questions.

    Raises:
      InputError: a setting does not fit.
    """
    if gaps is not None and name != "bridge":
        raise InputError(f"--gaps is for suite bridge, not for {name}")
    chosen_gaps = (GAPS if gaps is None else gaps) if name == "bridge" else (None,)
    sets = tuple(
        QuestionSet(
            name=each.name,
            source=PlantedSource(
                documents=each.source,
                config=SyntheticConfig(
                    tasks=("chain",),
                    chunk_tokens=chunk_size,
                    # Those of the documents; here as many as the gap needs.
                    num_chunks=abs(gap or 0) + 2,
                    gap=gap,
                    split="test",
                    seed=seed,
                ),
                encoder=encoder,
                chunk_size=chunk_size,
            ),
            count=num_questions,
            length=each.length,
            gap=gap,
        )
        for each in documents.question_sets()
        for gap in chosen_gaps
    )
    return MadeSuite(name=name, sets=sets)
