"""Conversations to packed rows of tokens, and values back to conversations.

A turn is one conversation, (prompt, completion). Several share a row, told apart by
segment ids, each with positions of its own: both are data, so that a row may one day be
a tree of suffixes behind one prefix. Everything here is numpy on the host, and depends
on nothing but the conversations and the configuration.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from gru_mem_jax.agent.trajectory import Trajectory
from gru_mem_jax.errors import InputError
from gru_mem_jax.records import check_int, plain_numbers
from gru_mem_jax.rl.outcomes import Array
from gru_mem_jax.shapes import check_shape


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """One turn as the learner sees it.

    Attributes:
      index: (question, rollout, turn).
      prompt_ids: token ids, at least one.
      completion_ids: the sampled ids, at least one.
      sampler_logprobs: of each sampled id under what it was drawn from.
      advantage: of each sampled token.
    """

    index: tuple[int, int, int]
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    advantage: float

    def __post_init__(self):
        if not self.prompt_ids or not self.completion_ids:
            raise InputError(f"{self.name} has no prompt or no completion")
        if len(self.sampler_logprobs) != len(self.completion_ids):
            raise InputError(
                f"{self.name} has {len(self.completion_ids)} sampled tokens and "
                f"{len(self.sampler_logprobs)} logprobs"
            )

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

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
    """

    row_tokens: int = 9216
    rows: int = 1
    length_buckets: int = 4

    def __post_init__(self):
        plain_numbers(self)
        check_int("row_tokens", self.row_tokens, 2)
        check_int("rows", self.rows, 1)
        check_int("length_buckets", self.length_buckets, 1, self.row_tokens)

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
      segment_ids: int32 [B, L], from 1 in each row, 0 on padding.
      completion_mask: float32 [B, L], 1 on sampled tokens.
      advantages: float32 [B, L], 0 but on sampled tokens.
      sampler_logprobs: float32 [B, L], 0 but on sampled tokens.
      conversation: int32 [B, L], which of the packed conversations; -1 on padding.
    """

    tokens: Array
    positions: Array
    segment_ids: Array
    completion_mask: Array
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
                if turn.prompt_ids is None or turn.sampling_logprobs is None:
                    raise InputError(
                        f"turn {k} of rollout {g} of question {p} has no token ids and "
                        f"logprobs: trajectories to learn from must be traced"
                    )
                if drop_cut and turn.finish_reason == "length":
                    continue
                column = -1 if turn.kind == "answer" else k
                conversation = Conversation(
                    index=(p, g, k),
                    prompt_ids=turn.prompt_ids,
                    completion_ids=turn.completion_ids,
                    sampler_logprobs=turn.sampling_logprobs,
                    advantage=float(advantages[p, g, column]),
                )
                result.append(conversation)
    return result


def mini_batches(
    conversations: Sequence[Conversation], count: int
) -> list[list[Conversation]]:
    """Splits a batch for several optimiser steps; a question's turns stay together.

    Args:
      conversations: of one batch of rollouts.
      count: how many parts, with as equal numbers of questions as can be.

    Raises:
      InputError: there are fewer questions than parts.
    """
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

    Best-fit decreasing: the longest first, each into the fullest row that has room.
    Equal lengths go by `Conversation.index`, so that the order given does not matter.

    Args:
      conversations: of one optimiser step, with distinct indices.
      config: size of the rows.

    Returns:
      Micro-batches of numpy arrays [B, L], the longest first; what is missing to the
      last one's B rows is padding.

    Raises:
      InputError: a conversation is longer than a row.
    """
    rows = assign_rows(conversations, config.row_tokens)
    return pack_rows(conversations, rows, config)


def pack_rows(
    conversations: Sequence[Conversation],
    rows: Sequence[Sequence[int]],
    config: PackConfig,
) -> list[PackedRows]:
    """Micro-batches of rows that are assigned already.

    Args:
      conversations: all that `rows` may name.
      rows: of one optimiser step, indices of the conversations in each.
      config: size of the rows.

    Returns:
      As `pack`.
    """
    used = [sum(len(conversations[i]) for i in row) for row in rows]
    # Like lengths together, so that little is padded.
    rows = [rows[r] for r in sorted(range(len(rows)), key=lambda r: (-used[r], r))]
    used.sort(reverse=True)
    batches = []
    for start in range(0, len(rows), config.rows):
        length = next(n for n in config.lengths if n >= used[start])
        chosen = rows[start : start + config.rows]
        batches.append(_fill(conversations, chosen, (config.rows, length)))
    return batches


def assign_rows(
    conversations: Sequence[Conversation], row_tokens: int
) -> list[list[int]]:
    """Which conversations share a row: best-fit decreasing, as `pack` says.

    Raises:
      InputError: a conversation is longer than a row.
    """
    order = sorted(
        range(len(conversations)),
        key=lambda i: (-len(conversations[i]), conversations[i].index),
    )
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for i in order:
        size = len(conversations[i])
        if size > row_tokens:
            item = conversations[i]
            raise InputError(
                f"{item.name} has {len(item.prompt_ids)} prompt and "
                f"{len(item.completion_ids)} sampled tokens, more than a row of "
                f"{row_tokens}; raise row_tokens or lower the agent's budgets"
            )
        place = bisect.bisect_left(room, (size, -1))
        if place == len(room):
            rows.append([])
            free, row = row_tokens, len(rows) - 1
        else:
            free, row = room.pop(place)
        rows[row].append(i)
        bisect.insort(room, (free - size, row))
    return rows


def _fill(
    conversations: Sequence[Conversation],
    rows: Sequence[Sequence[int]],
    shape: tuple[int, int],
) -> PackedRows:
    arrays = {
        "tokens": np.zeros(shape, np.int32),
        "positions": np.full(shape, -1, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "completion_mask": np.zeros(shape, np.float32),
        "advantages": np.zeros(shape, np.float32),
        "sampler_logprobs": np.zeros(shape, np.float32),
        "conversation": np.full(shape, -1, np.int32),
    }
    for b, row in enumerate(rows):
        start = 0
        for segment, i in enumerate(row, 1):
            item = conversations[i]
            end = start + len(item)
            whole = (b, slice(start, end))
            sampled = (b, slice(start + len(item.prompt_ids), end))
            arrays["tokens"][whole] = item.prompt_ids + item.completion_ids
            arrays["positions"][whole] = np.arange(len(item))
            arrays["segment_ids"][whole] = segment
            arrays["conversation"][whole] = i
            arrays["completion_mask"][sampled] = 1
            arrays["advantages"][sampled] = item.advantage
            arrays["sampler_logprobs"][sampled] = item.sampler_logprobs
            start = end
    return PackedRows(**arrays)


def unpack(
    values: Sequence[Array], batches: Sequence[PackedRows], count: int
) -> list[np.ndarray]:
    """What each conversation's sampled tokens have in arrays of the packed shape.

    Args:
      values: one array [B, L] for each micro-batch.
      batches: what `pack` gave.
      count: number of conversations that were packed.

    Returns:
      For each conversation, in the order that `pack` was given, the values of its
      sampled tokens, [completion].
    """
    picked, owners = [], []
    for array, rows in zip(values, batches, strict=True):
        check_shape("values", array, rows.tokens.shape)
        sampled = np.asarray(rows.completion_mask) > 0
        picked.append(np.asarray(array)[sampled])
        owners.append(np.asarray(rows.conversation)[sampled])
    if not picked:
        return [np.zeros(0, np.float32) for _ in range(count)]
    owner = np.concatenate(owners)
    # A conversation lies in one row, in order: a stable sort keeps its tokens in order.
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=count))[:-1]
    return np.split(np.concatenate(picked)[order], ends)
