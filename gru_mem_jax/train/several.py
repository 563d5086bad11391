"""What a step does besides in a run of several processes.

Each samples its part of the questions and packs its own rows. Small things are made
common: what trajectories came to, numbers and lengths of the rows, counts of tokens.
Then every process decides the same, and runs the same programs as often as the others.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.parallelism import (
    global_rows,
    local_row_shards,
    replicated,
    row_sharding,
    row_shards,
)
from gru_mem_jax.rl.compile import Learner
from gru_mem_jax.rl.learner import host_count
from gru_mem_jax.rl.outcomes import Outcomes, concatenate
from gru_mem_jax.rl.packing import (
    Conversation,
    PackConfig,
    PackedRows,
    mini_batches,
    pack,
    pack_rows,
)
from gru_mem_jax.rl.rollout import RolloutBatch


def batch_of_all(
    hosts: Hosts, batch: RolloutBatch, questions: Sequence[int]
) -> tuple[RolloutBatch, Sequence[int]]:
    """A round of rollouts with the outcomes of all processes.

    Args:
      hosts: of the run.
      batch: of this process's questions, which were dealt to it.
      questions: numbers of all of the round.

    Returns:
      The round, whose turns are this process's alone; places of its groups in it.
    """
    places = hosts.dealt(len(questions))
    if hosts.count == 1:
        return batch, places
    own = {"problems": batch.problems, "shared": batch.shared_tokens}
    given = hosts.gather("round", own)
    fields = [field.name for field in dataclasses.fields(Outcomes)]
    arrays = {name: np.asarray(getattr(batch.outcomes, name)) for name in fields}
    # Of processes without a question no array has the size of a group.
    parts = hosts.gather_arrays("outcomes", arrays)[: len(questions)]
    dealt = concatenate([Outcomes(**part) for part in parts])
    order = np.argsort(
        [p for i in range(hosts.count) for p in range(i, len(questions), hosts.count)]
    )
    problems: Counter[str] = Counter()
    for each in given:
        problems.update(each["problems"])
    whole = RolloutBatch(
        questions=tuple(questions),
        outcomes=jax.tree.map(lambda x: x[order], dealt),
        turns=tuple(
            dataclasses.replace(turn, index=(places[turn.index[0]], *turn.index[1:]))
            for turn in batch.turns
        ),
        problems=dict(sorted(problems.items())),
        refills=0,
        position=1 + max(questions),
        shared_tokens=sum(each["shared"] for each in given),
        skipped=batch.skipped,
    )
    return whole, places


def summed(hosts: Hosts, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Sums over all processes."""
    given = hosts.gather("numbers", dict(numbers))
    return {name: sum(each[name] for each in given) for name in numbers}


class Packed(NamedTuple):
    """The micro-batches of a batch, by optimiser step.

    Attributes:
      parts: as the learner takes them; with several processes of the rows of all.
      own: those that this process packed, numpy.
      counts: float32 [], learned tokens of each step; None: those of `parts`.
    """

    parts: list[list[PackedRows]]
    own: list[list[PackedRows]]
    counts: list[np.float32] | None


def pack_parts(
    hosts: Hosts, turns: Sequence[Conversation], steps: int, learner: Learner
) -> Packed:
    """Packs turns for several optimiser steps; none where nothing is to be learned.

    Args:
      hosts: of the run.
      turns: of this process's questions.
      steps: at most so many; each needs a question.
      learner: size of its rows, and its mesh.
    """
    given = hosts.gather("questions", sorted({turn.index[0] for turn in turns}))
    questions = sorted({question for each in given for question in each})
    if not questions:
        return Packed([], [], None)
    parts = mini_batches(turns, min(steps, len(questions)), questions)
    packing, mesh = learner.packing, learner.mesh
    if hosts.count == 1:
        own = [pack(part, packing) for part in parts]
        return Packed(own, own, None)
    rows = packing.rows * local_row_shards(mesh) // row_shards(mesh)
    own = [pack(part, dataclasses.replace(packing, rows=rows)) for part in parts]
    described = {
        "lengths": [[batch.tokens.shape[1] for batch in part] for part in own],
        "tokens": [float(host_count(part)) for part in own],
    }
    everywhere = hosts.gather("rows", described)
    whole, counts = [], []
    for number, part in enumerate(own):
        lengths = (each["lengths"][number] for each in everywhere)
        longest = map(max, itertools.zip_longest(*lengths, fillvalue=0))
        same = [
            widened(batch, (rows, length))
            for batch, length in itertools.zip_longest(part, longest)
        ]
        whole.append([global_rows(mesh, batch) for batch in same])
        counts.append(np.float32(sum(each["tokens"][number] for each in everywhere)))
    return Packed(whole, own, counts)


def widened(batch: PackedRows | None, shape: tuple[int, int]) -> PackedRows:
    """A micro-batch padded to a shape; None: one of padding alone."""
    size = PackConfig(rows=shape[0], row_tokens=shape[1], length_buckets=1)
    (padded,) = pack_rows((), [()], size)
    if batch is not None:
        for field in dataclasses.fields(PackedRows):
            array = np.asarray(getattr(batch, field.name))
            getattr(padded, field.name)[:, : array.shape[1]] = array
    return padded


def spread(hosts: Hosts, learner: Learner, rows: PackedRows) -> PackedRows:
    """Rows that every process has made alike, as the learner takes them."""
    if hosts.count == 1:
        return rows
    at = row_sharding(learner.mesh)
    placed: PackedRows = jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, at, x.__getitem__), rows
    )
    return placed


def fetched(hosts: Hosts, learner: Learner, array: jax.Array) -> np.ndarray:
    """An array of rows of all processes on the host of each."""
    if hosts.count > 1:
        copy = jax.jit(lambda x: x, out_shardings=replicated(learner.mesh))
        array = copy(array)
    return np.asarray(array)
