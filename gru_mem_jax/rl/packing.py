"""Conversations to packed rows of tokens, and values back to conversations.

A turn is one conversation, (prompt, completion). Several share a row, and those of a
question that begin alike share their first tokens (`rl.trees`): who sees whom is one
number a token, `reach`. Everything here is numpy on the host, and depends on nothing
but the conversations and the configuration.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.errors import InputError
from gru_mem_jax.grammar.automaton import FORCED
from gru_mem_jax.records import check_bool, check_int, plain_numbers
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.rl.trees import Tree, prefix_trees, single
from gru_mem_jax.shapes import check_shape

Row = tuple[Tree, ...]
_LARGEST_WEIGHT = 1e6  # of a token; NaN is none


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One turn as the learner sees it.

    Attributes:
      index: (question, rollout, turn).
      prompt_ids: token ids, at least one.
      completion_ids: the sampled ids, at least one.
      sampler_logprobs: of each sampled id under what it was drawn from.
      advantage: of each sampled token.
      weights: how much each sampled token counts; None: 1. One that was forced does not
        count in any case.
      supports: the set of ids that each was drawn from, a row of the learner's table of
        supports, of which the first has all ids; -1 for one that was forced; None: all
        were drawn from all ids.
    """

    index: tuple[int, int, int]
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    advantage: float
    weights: tuple[float, ...] | None = None
    supports: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completion_ids:
            raise InputError(f"{self.name} has no prompt or no completion")
        if len(self.sampler_logprobs) != len(self.completion_ids):
            raise InputError(
                f"{self.name} has {len(self.completion_ids)} sampled tokens and "
                f"{len(self.sampler_logprobs)} logprobs"
            )
        for name in ("weights", "supports"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.completion_ids):
                raise InputError(
                    f"{self.name} has {len(self.completion_ids)} sampled tokens and "
                    f"{len(given)} {name}"
                )
        for weight in self.weights or ():
            if not 0 <= weight <= _LARGEST_WEIGHT:
                raise InputError(f"{self.name} has a token of weight {weight}")
        if self.supports is not None and min(self.supports) < FORCED:
            raise InputError(f"{self.name} has a support {min(self.supports)}")

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def token_weights(self) -> tuple[float, ...]:
        """How much each sampled token counts, 0 for one that was forced."""
        weights = self.weights or (1.0,) * len(self.completion_ids)
        if self.supports is None:
            return weights
        return tuple(0.0 if s == FORCED else w for w, s in zip(weights, self.supports))

    @property
    def name(self) -> str:
        """What to call it in a message."""
        question, rollout, turn = self.index
        return f"turn {turn} of rollout {rollout} of question {question}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Size of the rows.

    Attributes:
      row_tokens: most tokens of a row; no conversation may be longer.
      rows: B, rows of a micro-batch.
      length_buckets: a micro-batch is as long as its longest row, rounded up to one of
        so many equal steps of row_tokens: so many programs are compiled at most.
      share_prefixes: tokens with which prompts of a question begin alike stand once in
        a row.
    """

    row_tokens: int = 9216
    rows: int = 1
    length_buckets: int = 4
    share_prefixes: bool = True

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_int("row_tokens", self.row_tokens, 2)
        check_int("rows", self.rows, 1)
        check_int("length_buckets", self.length_buckets, 1, self.row_tokens)
        check_bool("share_prefixes", self.share_prefixes)

    @property
    def lengths(self) -> tuple[int, ...]:
        """L of the micro-batches that there may be, rising."""
        steps = range(1, self.length_buckets + 1)
        return tuple(-(-self.row_tokens * i // self.length_buckets) for i in steps)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedRows:
    """A micro-batch. What is said at l is about the token at l, given those before it.

    Attributes:
      tokens: int32 [B, L], 0 on padding.
      positions: int32 [B, L], from 0 in each conversation, -1 on padding.
      reach: int32 [B, L], one past the last place of the conversations that the token
        belongs to: the token at i sees that at j if j <= i < reach[j]. Padding sees
        itself.
      completion_mask: float32 [B, L], above 0 on tokens that are learned: how much each
        counts, 1 if nothing else is said; 0 on prompts, padding and forced tokens.
      support: int32 [B, L], row of the learner's table of supports; 0: all ids.
      advantages: float32 [B, L], 0 but on sampled tokens.
      sampler_logprobs: float32 [B, L], 0 but on sampled tokens.
      conversation: int32 [B, L], which of the packed conversations; of a shared token
        the first one; -1 on padding.
    """

    tokens: Array
    positions: Array
    reach: Array
    completion_mask: Array
    support: Array
    advantages: Array
    sampler_logprobs: Array
    conversation: Array


def conversations(
    groups: Sequence[Sequence[Trajectory]], advantages: Array, *, drop_cut: bool = False
) -> list[Conversation]:
    """The turns of traced trajectories, in order of (question, rollout, turn).

    Args:
      groups: G trajectories for each of P questions.
      advantages: float32 [P, G, K + 1], of each memory turn, and of the answer turn
        last.
      drop_cut: leave out completions that were cut at the token limit, in numerator
        and denominator alike (DAPO's overlong filtering).

    Raises:
      InputError: a turn was not traced, or shapes do not match.
    """
    advantages = np.asarray(advantages, np.float32)
    rollouts = len(groups[0]) if groups else 0
    check_shape("advantages", advantages, (len(groups), rollouts, None))
    result = []
    for p, group in enumerate(groups):
        for g, trajectory in enumerate(group):
            for k, turn in enumerate(trajectory.turns):
                prompt, completion = turn.prompt_ids, turn.completion_ids
                logprobs = turn.sampling_logprobs
                if prompt is None or completion is None or logprobs is None:
                    raise InputError(
                        f"turn {k} of rollout {g} of question {p} has no token ids and "
                        f"logprobs: trajectories to learn from must be traced"
                    )
                if drop_cut and turn.finish_reason == "length":
                    continue
                column = -1 if turn.kind == "answer" else k
                conversation = Conversation(
                    index=(p, g, k),
                    prompt_ids=prompt,
                    completion_ids=completion,
                    sampler_logprobs=logprobs,
                    advantage=float(advantages[p, g, column]),
                    supports=turn.supports,
                )
                result.append(conversation)
    return result


def mini_batches(
    conversations: Sequence[Conversation],
    count: int,
    questions: Sequence[int] | None = None,
) -> list[list[Conversation]]:
    """Splits a batch for several optimiser steps; a question's turns stay together.

    Args:
      conversations: of one batch of rollouts.
      count: how many parts, with as equal numbers of questions as can be.
      questions: of the whole batch, ascending, where `conversations` are a part of it;
        None: those of `conversations`.

    Raises:
      InputError: there are fewer questions than parts.
    """
    if questions is None:
        questions = sorted({item.index[0] for item in conversations})
    if not 1 <= count <= len(questions):
        raise InputError(
            f"{len(questions)} questions cannot be split into {count} mini-batches"
        )
    part_of = {
        question: part
        for part, members in enumerate(np.array_split(questions, count))
        for question in members.tolist()
    }
    parts: list[list[Conversation]] = [[] for _ in range(count)]
    for item in conversations:
        parts[part_of[item.index[0]]].append(item)
    return parts


def pack(conversations: Sequence[Conversation], config: PackConfig) -> list[PackedRows]:
    """Packs conversations into rows, and rows of like length into micro-batches.

    The conversations of a question become trees of shared prefixes, a conversation that
    shares nothing a tree of its own. Trees are packed by best-fit decreasing: the
    largest first, each into the fullest row that has room. Equal ones go by
    `Conversation.index`, so that the order given does not matter.

    Args:
      conversations: of one optimiser step, with distinct indices.
      config: size of the rows.

    Returns:
      Micro-batches of numpy arrays [B, L], the longest first; what is missing to the
      last one's B rows is padding.

    Raises:
      InputError: a conversation is longer than a row.
    """
    return pack_rows(conversations, assign_rows(conversations, config), config)


def pack_rows(
    conversations: Sequence[Conversation], rows: Sequence[Row], config: PackConfig
) -> list[PackedRows]:
    """Micro-batches of rows that are assigned already.

    Args:
      conversations: all that `rows` may name.
      rows: of one optimiser step, of `assign_rows`.
      config: size of the rows.

    Returns:
      As `pack`.
    """
    used = [sum(tree.size for tree in row) for row in rows]
    # Like lengths together, so that little is padded.
    rows = [rows[r] for r in sorted(range(len(rows)), key=lambda r: (-used[r], r))]
    used.sort(reverse=True)
    batches = []
    for start in range(0, len(rows), config.rows):
        length = next(n for n in config.lengths if n >= used[start])
        chosen = rows[start : start + config.rows]
        batches.append(_fill(conversations, chosen, (config.rows, length)))
    return batches


def assign_rows(conversations: Sequence[Conversation], config: PackConfig) -> list[Row]:
    """Which conversations share a prefix, and which a row, as `pack` says.

    Raises:
      InputError: a conversation is longer than a row.
    """
    trees = _trees(conversations, config)

    def largest_first(tree: Tree) -> tuple[int, tuple[int, int, int]]:
        return -tree.size, conversations[tree.items[0]].index

    rows: list[list[Tree]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for tree in sorted(trees, key=largest_first):
        place = bisect.bisect_left(room, (tree.size, -1))
        if place == len(room):
            rows.append([])
            free, row = config.row_tokens, len(rows) - 1
        else:
            free, row = room.pop(place)
        rows[row].append(tree)
        bisect.insort(room, (free - tree.size, row))
    return [tuple(row) for row in rows]


def row_items(rows: Sequence[Row]) -> list[int]:
    """Indices of the conversations in rows of `assign_rows`."""
    return [i for row in rows for tree in row for i in tree.items]


def _trees(conversations: Sequence[Conversation], config: PackConfig) -> list[Tree]:
    of_question: dict[int, list[int]] = {}
    for i, item in enumerate(conversations):
        if len(item) > config.row_tokens:
            raise InputError(
                f"{item.name} has {len(item.prompt_ids)} prompt and "
                f"{len(item.completion_ids)} sampled tokens, more than a row of "
                f"{config.row_tokens}; raise row_tokens or lower the agent's budgets"
            )
        of_question.setdefault(item.index[0], []).append(i)
    if not config.share_prefixes:
        return [single(i, len(item)) for i, item in enumerate(conversations)]
    trees: list[Tree] = []
    for members in of_question.values():
        members = sorted(members, key=lambda i: conversations[i].index)
        items = [conversations[i] for i in members]
        for tree in prefix_trees(
            [item.prompt_ids for item in items],
            [len(item) for item in items],
            config.row_tokens,
        ):
            own = tuple(members[i] for i in tree.items)
            trees.append(dataclasses.replace(tree, items=own))
    return trees


def _fill(
    conversations: Sequence[Conversation], rows: Sequence[Row], shape: tuple[int, int]
) -> PackedRows:
    arrays = {
        "tokens": np.zeros(shape, np.int32),
        "positions": np.full(shape, -1, np.int32),
        "reach": np.tile(np.arange(1, shape[1] + 1, dtype=np.int32), (shape[0], 1)),
        "completion_mask": np.zeros(shape, np.float32),
        "support": np.zeros(shape, np.int32),
        "advantages": np.zeros(shape, np.float32),
        "sampler_logprobs": np.zeros(shape, np.float32),
        "conversation": np.full(shape, -1, np.int32),
    }
    path = np.zeros(shape[1], np.int64)  # where the token at each position stands
    for b, row in enumerate(rows):
        start = 0
        for tree in row:
            for i, shared in zip(tree.items, tree.shared):
                item = conversations[i]
                length = len(item)
                end = start + length - shared
                own = (b, slice(start, end))
                sampled = (b, slice(end - len(item.completion_ids), end))
                path[shared:length] = np.arange(start, end)
                arrays["tokens"][own] = (item.prompt_ids + item.completion_ids)[shared:]
                arrays["positions"][own] = np.arange(shared, length)
                arrays["reach"][b, path[:length]] = end
                arrays["conversation"][own] = i
                arrays["completion_mask"][sampled] = item.token_weights
                if item.supports is not None:
                    arrays["support"][sampled] = np.maximum(item.supports, 0)
                arrays["advantages"][sampled] = item.advantage
                arrays["sampler_logprobs"][sampled] = item.sampler_logprobs
                start = end
    return PackedRows(**arrays)


def unpack(
    values: Sequence[Array], batches: Sequence[PackedRows], count: int
) -> list[np.ndarray]:
    """What each conversation's learned tokens have in arrays of the packed shape.

    Args:
      values: one array [B, L] for each micro-batch.
      batches: what `pack` gave.
      count: number of conversations that were packed.

    Returns:
      For each conversation, in the order that `pack` was given, the values of its
      tokens of a weight above 0, [learned]: of all sampled ones if nothing else is
      said.
    """
    picked, owners = [], []
    for array, rows in zip(values, batches, strict=True):
        check_shape("values", array, rows.tokens.shape)
        learned = np.asarray(rows.completion_mask) > 0
        picked.append(np.asarray(array)[learned])
        owners.append(np.asarray(rows.conversation)[learned])
    if not picked:
        return [np.zeros(0, np.float32) for _ in range(count)]
    owner = np.concatenate(owners)
    # A conversation lies in one row, in order: a stable sort keeps its tokens in order.
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=count))[:-1]
    return np.split(np.concatenate(picked)[order], ends)
