"""The suites over official files: their tasks, lengths and data sets."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from gru_mem_jax.data.builders.recipe import Length, Unit
from gru_mem_jax.data.injection import KINDS
from gru_mem_jax.errors import InputError
from gru_mem_jax.evaluation.suites.lengths import (
    PAPER_LENGTHS,
    in_documents,
    label,
    parse_length,
)
from gru_mem_jax.evaluation.suites.parts import Part

# Names of --source: the official file, and where it can be had.
OFFICIAL_FILES = {
    "hotpotqa": ("hotpot_dev_distractor_v1.json", "https://hotpotqa.github.io"),
    "2wiki": ("dev.json", "https://github.com/Alab-NII/2wikimultihop"),
    "musique": (
        "musique_ans_v1.0_dev.jsonl",
        "https://github.com/StonyBrookNLP/musique",
    ),
    "squad": ("dev-v2.0.json", "https://rajpurkar.github.io/SQuAD-explorer"),
    "haystack": (
        "a long text of your own, such as essays",
        "RULER takes Paul Graham's: https://github.com/NVIDIA/RULER",
    ),
}
# RULER's tasks, and the files that they are made from; the others need none.
RULER_TASKS: Mapping[str, tuple[str, ...]] = {
    "niah_single_1": (),
    "niah_single_2": ("haystack",),
    "niah_single_3": ("haystack",),
    "niah_multikey_1": ("haystack",),
    "niah_multikey_2": (),
    "niah_multikey_3": (),
    "niah_multivalue": ("haystack",),
    "niah_multiquery": ("haystack",),
    "vt": (),
    "cwe": (),
    "fwe": (),
    "qa_1": ("squad",),
    "qa_2": ("hotpotqa",),
}
# The names of the paper's table (arXiv 2602.10560) for RULER's.
_PAPER_NAMES = {
    "SK-1": "niah_single_1",
    "SK-2": "niah_single_2",
    "SK-3": "niah_single_3",
    "MK-1": "niah_multikey_1",
    "MK-2": "niah_multikey_2",
    "MK-3": "niah_multikey_3",
    "MV": "niah_multivalue",
    "MQ": "niah_multiquery",
}
# Chunks by which what is needed first lies after what it points to.
GAPS = (-128, -32, -8, 0, 8, 32, 128)
_DOCUMENTS = tuple(str(50 << i) for i in range(8))  # 50 to 6,400


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteKind:
    """A suite by name.

    Attributes:
      about: what it asks, in a line.
      unit: of a number in --lengths.
      lengths: by default, as --lengths has them.
      tasks: names of its tasks, in the order of a table.
      parts: the tasks' parts: (lengths, gaps) -> parts.
      attacks: kinds of attack; each is asked beside the clean documents.
      gaps: between hops, where the suite has them.
    """

    about: str
    unit: Unit
    lengths: tuple[str, ...]
    tasks: tuple[str, ...]
    parts: Callable[[Sequence[Length], Sequence[int]], list[Part]]
    attacks: tuple[str, ...] = ()
    gaps: tuple[int, ...] = ()

    def all_parts(
        self, lengths: Sequence[str] | None, gaps: Sequence[int] | None
    ) -> list[Part]:
        """The parts at some lengths; None: at the suite's own.

        Raises:
          InputError: a length or a gap does not fit the suite.
        """
        if gaps is not None and not self.gaps:
            raise InputError("--gaps is for suite bridge")
        texts = dict.fromkeys(self.lengths if lengths is None else lengths)
        found = [parse_length(text, self.unit) for text in texts]
        return self.parts(found, self.gaps if gaps is None else gaps)


def _labelled(lengths: Sequence[Length]) -> dict[str, Length]:
    return {label(length): length for length in lengths}


def _paper(lengths: Sequence[Length], gaps: Sequence[int]) -> list[Part]:
    parts = [
        Part(
            name="HQA",
            folder="hotpotqa",
            builder="long_hotpotqa",
            sources=("hotpotqa",),
            # The field's protocol counts paragraphs here, and tokens elsewhere.
            lengths={label(length): in_documents(length) for length in lengths},
        ),
        Part(
            name="SQuAD",
            folder="squad",
            builder="long_squad",
            sources=("squad",),
            lengths=_labelled(lengths),
        ),
    ]
    return parts + [
        _ruler_task("paper", name, task, lengths) for name, task in _PAPER_NAMES.items()
    ]


def _ruler(lengths: Sequence[Length], gaps: Sequence[int]) -> list[Part]:
    return [_ruler_task("ruler", task, task, lengths) for task in RULER_TASKS]


def _ruler_task(suite: str, name: str, task: str, lengths: Sequence[Length]) -> Part:
    return Part(
        name=name,
        folder=f"{suite}_{task}",
        builder="ruler",
        sources=RULER_TASKS[task],
        settings={"task": task},
        lengths=_labelled(lengths),
        # To stop early, a reader would have to know that no fifth value follows: the
        # paper reports no exit gate here.
        left_out_modes=("with_exit_gate",) if name == "MV" else (),
    )


def _multihop(lengths: Sequence[Length], gaps: Sequence[int]) -> list[Part]:
    return [
        Part(
            name=name,
            folder=source,
            builder=f"long_{source}",
            sources=(source,),
            lengths=_labelled(lengths),
        )
        for name, source in (
            ("HQA", "hotpotqa"),
            ("2Wiki", "2wiki"),
            ("MuSiQue", "musique"),
        )
    ]


def _unbalanced(lengths: Sequence[Length], gaps: Sequence[int]) -> list[Part]:
    return [
        Part(
            name="HQA",
            folder="hotpotqa_first_20",
            builder="long_hotpotqa",
            sources=("hotpotqa",),
            settings={"evidence_position": "first_20"},
            lengths={label(length): in_documents(length) for length in lengths},
            placement="first_20",
        )
    ]


def _bridge(lengths: Sequence[Length], gaps: Sequence[int]) -> list[Part]:
    for length in lengths:
        if length.unit == "chunks" and length.count <= max(map(abs, gaps), default=0):
            raise InputError(
                f"documents of {length} are too short for gaps of "
                f"{', '.join(map(str, gaps))} chunks: give --lengths or --gaps"
            )
    return [
        Part(
            name=name,
            folder=f"{source}_gap_{gap}".replace("-", "minus_"),
            builder=f"long_{source}",
            sources=(source,),
            settings={"bridge_gap": gap},
            lengths=_labelled(lengths),
            gap=gap,
        )
        for name, source in (("MuSiQue", "musique"), ("2Wiki", "2wiki"))
        for gap in gaps
    ]


def _injection(lengths: Sequence[Length], gaps: Sequence[int]) -> list[Part]:
    (part, *_) = _paper(lengths, gaps)
    return [part]


SUITES: Mapping[str, SuiteKind] = {
    "paper": SuiteKind(
        about="the tasks of GRU-Mem's table, 7K to 896K tokens",
        unit="tokens",
        lengths=PAPER_LENGTHS,
        tasks=("HQA", "SQuAD", *_PAPER_NAMES),
        parts=_paper,
    ),
    "ruler": SuiteKind(
        about="RULER's 13 tasks, 4K to 128K tokens",
        unit="tokens",
        lengths=("4K", "8K", "16K", "32K", "64K", "128K"),
        tasks=tuple(RULER_TASKS),
        parts=_ruler,
    ),
    "multihop": SuiteKind(
        about="HotpotQA, 2WikiMultihopQA and MuSiQue, 50 to 6,400 paragraphs",
        unit="documents",
        lengths=_DOCUMENTS,
        tasks=("HQA", "2Wiki", "MuSiQue"),
        parts=_multihop,
    ),
    "unbalanced": SuiteKind(
        about="HotpotQA with all evidence in the first 20%",
        unit="tokens",
        lengths=("112K", "224K", "448K", "896K"),
        tasks=("HQA",),
        parts=_unbalanced,
    ),
    "bridge": SuiteKind(
        about="two hops some chunks apart, in both orders",
        unit="chunks",
        lengths=("160",),
        tasks=("MuSiQue", "2Wiki"),
        parts=_bridge,
        gaps=GAPS,
    ),
    "injection": SuiteKind(
        about="HotpotQA with attacks in the documents, beside the clean ones",
        unit="tokens",
        lengths=("28K",),
        tasks=("HQA",),
        parts=_injection,
        attacks=KINDS,
    ),
}
