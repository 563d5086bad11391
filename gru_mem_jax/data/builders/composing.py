"""Documents of paragraphs: which ones, in which order, with the evidence marked."""

import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from gru_mem_jax.agent.encoding import Encoder
from gru_mem_jax.data.builders import bridge_gap
from gru_mem_jax.data.builders.growing import Growing
from gru_mem_jax.data.builders.paragraph_pool import ParagraphPool
from gru_mem_jax.data.builders.placing import (
    EVIDENCE_POSITIONS,
    EvidencePosition,
    placing,
)
from gru_mem_jax.data.builders.recipe import (
    GLUES,
    Length,
    Unit,
    check_counting,
    heading,
)
from gru_mem_jax.data.builders.token_counts import BETWEEN, TokenCounts
from gru_mem_jax.data.paragraphs import FORMS, Form, Paragraph, ParagraphQuestion, Span
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_bool, check_choice, check_int, plain_numbers

Distractors = Literal["own_first", "others"]
DISTRACTORS: tuple[Distractors, ...] = ("own_first", "others")
_SAMPLE = 200  # paragraphs that are tokenised together, to check their counts
_MORE = "give more files as sources, or set repeat_distractors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentSettings:
    """How documents of paragraphs are made.

    Attributes:
      lengths: of the documents, all in one unit. In tokens: at most as many, and as
        near as paragraphs allow. In chunks: exactly as many.
      seed: of paragraphs and places.
      encoder: the tokenizer; needed for lengths in tokens or chunks and for bridge_gap.
      chunk_size: tokens of a chunk; needed for lengths in chunks and for bridge_gap.
      evidence_position: "uniform", anywhere; "first_20" and "last_20", all of it in the
        first or the last 20% of the document, in tokens if there is an encoder, else in
        paragraphs; "spread", evenly apart.
      bridge_gap: how many chunks the evidence that is needed first lies after the
        evidence that it points to. With 8, what answers the question is read eight
        chunks before what tells that it does; with -8, eight chunks after it; with 0
        they stand side by side, in one chunk if they fit. Counted by the chunks in
        which evidence ends. Up to this evidence the document is the same at every
        length. Only questions of two steps are asked, since more have several gaps.
      distractors: the paragraphs without evidence: "own_first", those that the file
        gives with the question, then others; "others" alone. Others never have a title
        of the question's own paragraphs; the answer may occur in them.
      repeat_distractors: whether others occur again where the files have too few; else
        that is an error. The question's own paragraphs never occur twice.
      form: "numbered", a line "Document 3:" above each, as MemAgent does; "plain".
    """

    lengths: tuple[Length, ...]
    seed: int = 0
    encoder: Encoder | None = None
    chunk_size: int | None = None
    evidence_position: EvidencePosition = "uniform"
    bridge_gap: int | None = None
    distractors: Distractors = "own_first"
    repeat_distractors: bool = False
    form: Form = "numbered"

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not self.lengths:
            raise InputError("lengths is empty: give one, such as 200 documents")
        for length in self.lengths:
            check_choice("the unit of lengths", length.unit, get_args(Unit))
            check_int(f"a length in {length.unit}", length.count, 1)
        if len({length.unit for length in self.lengths}) > 1:
            raise InputError("lengths must all be in one unit")
        if len(set(self.lengths)) < len(self.lengths):
            raise InputError("lengths holds one of them twice")
        check_int("seed", self.seed, 0)
        if self.chunk_size is not None:
            check_int("chunk_size", self.chunk_size, 1)
        if self.bridge_gap is not None:
            check_int("bridge_gap", self.bridge_gap, -(1 << 20), 1 << 20)
        check_choice("evidence_position", self.evidence_position, EVIDENCE_POSITIONS)
        check_choice("distractors", self.distractors, DISTRACTORS)
        check_bool("repeat_distractors", self.repeat_distractors)
        check_choice("form", self.form, FORMS)
        self._check_together()

    def _check_together(self) -> None:
        check_counting(self.lengths, self.encoder, self.chunk_size)
        if self.bridge_gap is None:
            return
        if self.evidence_position != "uniform":
            raise InputError(
                "bridge_gap and evidence_position both say where the evidence lies; "
                "give one of them"
            )
        if self.encoder is None or self.chunk_size is None:
            raise InputError(
                "bridge_gap is counted in chunks: it needs an encoder, a tokenizer, "
                "and chunk_size, the tokens of a chunk"
            )


class Document(NamedTuple):
    """A document of texts of a pool.

    Attributes:
      pieces: indices of the texts, in order.
      glue: how they are joined, a name of `recipe.GLUES`.
      evidence: (start, end) in characters, in order.
      evidence_order: the step of each; empty: not known.
    """

    pieces: list[int]
    glue: str
    evidence: tuple[Span, ...]
    evidence_order: tuple[int, ...]


class _Own(NamedTuple):
    """A question's own paragraphs.

    Attributes:
      held: those with evidence.
      first: those without that are taken before others.
      avoid: all that have a title of its own; not drawn.
    """

    held: list[int]
    first: list[int]
    avoid: set[int]


class _Ordered(NamedTuple):
    """The texts of a document.

    Attributes:
      pieces: in order.
      marks: from a place in `pieces` to the place in `_Own.held`.
    """

    pieces: list[int]
    marks: dict[int, int]


class Composer:
    """Makes the documents of questions; each from the settings and its id alone.

    Args:
      settings: of the documents.
      pool: of all paragraphs.
      name: of the set, a part of the seed.
    """

    def __init__(self, settings: DocumentSettings, pool: ParagraphPool, name: str):
        self.pool, self._settings, self._name = pool, settings, name
        self._counts: TokenCounts | None = None
        if settings.encoder is not None:
            numbered = settings.form == "numbered"
            self._counts = TokenCounts(settings.encoder, pool.texts, numbered=numbered)

    def compose(self, item: ParagraphQuestion, length: Length) -> Document:
        """The document of a question, at one of the lengths.

        Raises:
          InputError: there are too few paragraphs, or the length is too small for the
            evidence, or for where it is to lie.
        """
        try:
            ordered = self._ordered(item, length)
            if length.unit == "chunks":
                self._check_chunks(ordered.pieces, length)
        except InputError as error:
            raise InputError(
                f"record {item.id!r:.60} in a document of {length}: {error}"
            ) from None
        return self._marked(item, ordered)

    def has_room(self, paragraphs: Sequence[Paragraph], length: Length) -> bool:
        """Whether a document of a length can hold these paragraphs."""
        if length.unit == "documents":
            return len(paragraphs) <= length.count
        counts = self._token_counts
        numbered = enumerate(map(self.pool.index, paragraphs), 1)
        used = sum(counts.text(piece).tokens + counts.head(n) for n, piece in numbered)
        return used <= self._limit(length)

    def check(self, items: Sequence[ParagraphQuestion]) -> None:
        """Checks that the questions can have their documents.

        Raises:
          InputError: one can't, see `compose`; or the tokens of paragraphs do not add
            up to those of a document.
        """
        shortest, longest = min(self._settings.lengths), max(self._settings.lengths)
        for length in dict.fromkeys((shortest, longest)):
            for item in items:
                self.compose(item, length)
        if self._counts is not None and self._settings.encoder is not None:
            pieces, glue, *_ = self.compose(items[0], shortest)
            pieces = pieces[:_SAMPLE]
            text = GLUES[glue]([self.pool.texts[piece] for piece in pieces])
            tokens = len(self._settings.encoder.encode(text))
            if (added := self._counts.document(pieces)) != tokens:
                raise InputError(
                    f"the tokenizer gives a document of {len(pieces)} paragraphs "
                    f"{tokens} tokens, but these one by one {added}: it joins "
                    "paragraphs; take lengths in documents, without encoder"
                )

    def _own(self, item: ParagraphQuestion) -> _Own:
        index = self.pool.index
        held = [index(each) for each in item.paragraphs if each.evidence]
        first: list[int] = []
        if self._settings.distractors == "own_first":
            given = dict.fromkeys(index(p) for p in item.paragraphs if not p.evidence)
            first = [piece for piece in given if piece not in held]
        titles = {each.title for each in item.paragraphs}
        return _Own(held, first, self.pool.titled(titles))

    def _rng(self, purpose: str, item: ParagraphQuestion) -> random.Random:
        key = f"{self._settings.seed}/{self._name}/{purpose}/{item.id}"
        return random.Random(key)

    def _others(self, item: ParagraphQuestion, length: Length) -> tuple[list[int], int]:
        """The paragraphs without evidence: those of a shorter document come first.

        Returns:
          The paragraphs, and how many of them the shortest document has.
        """
        own, rng = self._own(item), self._rng("others", item)
        drawn = self.pool.draw(rng, own.avoid, repeat=self._settings.repeat_distractors)
        first = rng.sample(own.first, len(own.first))
        growing = Growing(itertools.chain(first, drawn))
        used, short = 0, None
        for each in sorted(self._settings.lengths):
            if each <= length:
                used = self._grow(growing, own.held, each, used)
                short = len(growing.chosen) if short is None else short
        return growing.chosen, short or 0

    def _grow(
        self, growing: Growing, held: Sequence[int], length: Length, used: int
    ) -> int:
        """Adds paragraphs up to a length.

        Args:
          growing: what the shorter documents have.
          held: the paragraphs with evidence.
          length: to grow to.
          used: tokens of the document so far; 0: not even those of `held` are counted.

        Returns:
          The tokens of the document; 0 if it is not counted in tokens.
        """
        if length.unit == "documents":
            if len(held) > length.count:
                raise InputError(f"its evidence alone has {len(held)} paragraphs")
            growing.to_count(length.count - len(held))
            if growing.ended:
                have = len(held) + len(growing.chosen)
                raise InputError(
                    f"the files have only {have} different paragraphs for it; {_MORE}"
                )
            return 0
        counts = self._token_counts

        def cost(piece: int, chosen: int) -> int:
            number = len(held) + chosen + 1
            return counts.text(piece).tokens + counts.head(number)

        limit = self._limit(length)
        used = used or sum(cost(piece, i - len(held)) for i, piece in enumerate(held))
        if used > limit:
            raise InputError(f"its evidence alone has {used} tokens")
        used = limit - growing.fill(limit - used, cost)
        if growing.ended:
            raise InputError(
                f"the files have only about {used} tokens of different paragraphs for "
                f"it; {_MORE}"
            )
        return used

    def _limit(self, length: Length) -> int:
        """The most tokens of a document of a length in tokens or chunks."""
        if length.unit == "tokens":
            return length.count
        size = self._chunk_size
        # Chunks are a few tokens shorter where one would begin within a character.
        return length.count * size - min(size // 8, 8 + length.count // 8)

    def _ordered(self, item: ParagraphQuestion, length: Length) -> _Ordered:
        if self._settings.bridge_gap is not None:
            return self._bridged(item, length, self._settings.bridge_gap)
        held, (others, short) = self._own(item).held, self._others(item, length)
        rng, counts = self._rng("places", item), self._counts
        # The shortest document's are placed in random order: the question's own come
        # first in it, and would have places of their own.
        pieces = [*held, *rng.sample(others[:short], short), *others[short:]]
        many, position = len(held), self._settings.evidence_position
        weights = [1.0] * len(pieces)
        if counts is not None and position in ("first_20", "last_20"):
            numbered = enumerate(pieces, 1)
            weights = [counts.text(p).tokens + counts.head(n) for n, p in numbered]
        where = placing(position, rng, weights[:many], exact=counts is None)
        places = [*where.evidence, *map(where.place, weights[many:])]
        where.check()
        order = sorted(range(len(places)), key=places.__getitem__)
        marks = {at: which for at, which in enumerate(order) if which < many}
        return _Ordered([pieces[which] for which in order], marks)

    def _bridged(self, item: ParagraphQuestion, length: Length, gap: int) -> _Ordered:
        """With the evidence `gap` chunks apart, the same up to it at every length."""
        counts, held = self._token_counts, self._own(item).held
        evidence = [each for each in item.paragraphs if each.evidence]
        steps = [step for step in item.steps if step >= 0]
        rng = self._rng("places", item)
        # By step; a positive gap turns them around.
        pair = sorted(range(2), key=steps.__getitem__, reverse=gap > 0)
        if gap == 0:
            rng.shuffle(pair)

        def marked(which: int) -> bridge_gap.Held:
            shift = len(evidence[which].title) + 1
            spans = evidence[which].evidence
            span = (shift + spans[0][0], shift + spans[-1][1])
            return bridge_gap.Held(held[which], *counts.extent(held[which], span))

        others, short = self._others(item, length)
        parts = bridge_gap.arrange(
            rng,
            counts,
            self._chunk_size,
            abs(gap),
            (marked(pair[0]), marked(pair[1])),
            others[:short],
        )
        behind = [(rng.random(), piece) for piece in (*parts.after, *others[short:])]
        pieces = [*parts.before, held[pair[0]], *parts.between, held[pair[1]]]
        marks = {len(parts.before): pair[0], len(pieces) - 1: pair[1]}
        return _Ordered([*pieces, *(piece for _, piece in sorted(behind))], marks)

    def _marked(self, item: ParagraphQuestion, ordered: _Ordered) -> Document:
        """The document with the spans of its evidence."""
        numbered = self._settings.form == "numbered"
        evidence = [i for i, each in enumerate(item.paragraphs) if each.evidence]
        spans: list[Span] = []
        steps: list[int] = []
        texts, left = self.pool.texts, len(evidence)
        offset = 0
        for number, piece in enumerate(ordered.pieces):
            offset += len(heading(number + 1)) if numbered else 0
            if (which := ordered.marks.get(number)) is not None:
                own = item.paragraphs[evidence[which]]
                shift = offset + len(own.title) + 1
                spans += [(a + shift, b + shift) for a, b in own.evidence]
                if item.steps:
                    steps += [item.steps[evidence[which]]] * len(own.evidence)
                left -= 1
                if not left:
                    break
            offset += len(texts[piece]) + len(BETWEEN)
        glue = "numbered" if numbered else "paragraphs"
        return Document(ordered.pieces, glue, tuple(spans), tuple(steps))

    def _check_chunks(self, pieces: Sequence[int], length: Length) -> None:
        counts = self._token_counts
        starts, total = counts.starts(pieces), counts.document(pieces)
        found = len(counts.chunks(pieces, starts, self._chunk_size, total))
        if found != length.count:
            raise InputError(
                f"its paragraphs make {found} chunks of {self._chunk_size} tokens; "
                "they are too long for chunks of this size"
            )

    @property
    def _token_counts(self) -> TokenCounts:
        if self._counts is None:
            raise InputError("this needs an encoder, the tokenizer of a policy")
        return self._counts

    @property
    def _chunk_size(self) -> int:
        if self._settings.chunk_size is None:
            raise InputError("this needs chunk_size, the tokens of a chunk")
        return self._settings.chunk_size
