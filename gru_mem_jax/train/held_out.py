"""What a policy makes of held-out turns, teacher-forced.

The gates are judged by what the policy gives for their two words where the oracle's
reply has decided all before. Of the exit gate that is a fair test where the thought
does not tell; of the update gate it is one where replies have no thought. A thought
that quotes the evidence, or says that there is none, has decided the gate before its
word comes: the word is then all but given. So the update gate is judged without the
oracle's thought, too. Let c be the oracle's reply to the same prompt if the chunk held
no evidence, up to the word "no", and

    score = -log p(c | prompt) = -sum over its tokens of log p(token | those before)

c begins with the thought that nothing is here. A policy that is about to quote, or to
open the gate, gives c a low probability; nothing that the chunk adds is fed to it. The
gate counts as open if p(c) < 1/2: of a policy that says "nothing" in one way only, as
it learns here, p(c) is the probability that the gate stays closed.

What the policy's own thoughts and memories lead to, only the loop can tell: the columns
`eval/update_on_evidence`, `eval/update_off_evidence` and `eval/balanced_update`.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gru_mem_jax.data.turns import SupervisedTurn
from gru_mem_jax.evaluation.gate_measures import auc, balanced_accuracy
from gru_mem_jax.grammar.automaton import EXIT, UPDATE
from gru_mem_jax.hosts.processes import Hosts
from gru_mem_jax.rl.compile import Learner
from gru_mem_jax.rl.packing import Conversation, PackedRows, pack, unpack
from gru_mem_jax.train.several import fetched, spread

_NAMES = {UPDATE: "update", EXIT: "exit"}


def held_out_columns(
    learner: Learner,
    params: Any,
    turns: Sequence[SupervisedTurn],
    hosts: Hosts | None = None,
) -> dict[str, float | None]:
    """`exact_turns` as "exact/NAME", and `gate_columns`.

    Args:
      learner: whose rows the turns are packed into.
      params: full params.
      turns: what is looked at, at least one.
      hosts: the processes that the learner's devices are of; None: this one alone.
    """
    exact = exact_turns(learner, params, turns, hosts)
    columns: dict[str, float | None] = {f"exact/{k}": v for k, v in exact.items()}
    return columns | gate_columns(learner, params, turns, hosts)


def exact_turns(
    learner: Learner,
    params: Any,
    turns: Sequence[SupervisedTurn],
    hosts: Hosts | None = None,
) -> dict[str, float]:
    """Share of turns whose every token is the most likely one, given those before.

    Args:
      learner, params, turns, hosts: as of `held_out_columns`.

    Returns:
      "KIND", "KIND/TASK", and "gated/with_evidence", "gated/without_evidence".
    """
    asked = [
        _conversation(i, 0, turn, turn.completion, range(len(turn.completion)))
        for i, turn in enumerate(turns)
    ]
    predicted = functools.partial(learner.predicted, params)
    flags = _of_places(learner, asked, hosts, predicted)
    right: dict[str, list[bool]] = defaultdict(list)
    for turn, tokens in zip(turns, flags, strict=True):
        names = [turn.kind, f"{turn.kind}/{turn.task}"]
        if turn.kind == "gated":
            names.append(f"gated/{'with' if turn.evidence else 'without'}_evidence")
        for name in names:
            right[name].append(bool(tokens.all()))
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


def gate_columns(
    learner: Learner,
    params: Any,
    turns: Sequence[SupervisedTurn],
    hosts: Hosts | None = None,
) -> dict[str, float | None]:
    """How well the gates of the gated ones among the turns are decided.

    Args:
      learner, params, turns, hosts: as of `held_out_columns`.

    Returns:
      "gates/GATE_auc" and "gates/GATE_balanced_accuracy" of the gates "update", "exit"
      and, without the oracle's thought, "unaided_update"; None where all such gates are
      to open or all to stay closed. Nothing if no turn has a gate.
    """
    asked: list[Conversation] = []
    for i, turn in enumerate(turns):
        places = [gate.place for gate in turn.gates]
        if places:
            asked.append(_conversation(i, 0, turn, turn.completion, places))
        for number, gate in enumerate(turn.gates, 1):
            other = gate.closes if gate.open else gate.opens
            ids = (*turn.completion[: gate.place], other)
            asked.append(_conversation(i, number, turn, ids, [gate.place]))
        if turn.closed:
            number, places = len(turn.gates) + 1, range(len(turn.closed))
            asked.append(_conversation(i, number, turn, turn.closed, places))

    def logprobs(rows: PackedRows) -> jax.Array:
        return learner.logprobs(params, rows).logprobs

    found = iter(_of_places(learner, asked, hosts, logprobs))
    scores: dict[str, list[float]] = defaultdict(list)
    labels: dict[str, list[bool]] = defaultdict(list)
    for turn in turns:
        own = next(found) if turn.gates else ()
        for gate, logprob in zip(turn.gates, own, strict=True):
            log_odds = float(logprob) - float(next(found)[0])
            scores[_NAMES[gate.gate]].append(log_odds if gate.open else -log_odds)
            labels[_NAMES[gate.gate]].append(gate.open)
        if turn.closed:
            total = float(np.sum(next(found), dtype=np.float64))
            # As log-odds, 0 at p(c) = 1/2, like the others.
            scores["unaided_update"].append(-total - math.log(2))
            labels["unaided_update"].append(turn.gates[0].open)
    columns: dict[str, float | None] = {}
    for name, values in scores.items():
        opens = [value >= 0 for value in values]
        columns[f"gates/{name}_auc"] = auc(values, labels[name])
        columns[f"gates/{name}_balanced_accuracy"] = balanced_accuracy(
            opens, labels[name]
        )
    return columns


def _conversation(
    turn: int,
    number: int,
    of: SupervisedTurn,
    completion: tuple[int, ...],
    places: Sequence[int],
) -> Conversation:
    """A completion of a turn's prompt, of which some places are asked for.

    All have one question's number: whatever begins alike stands once in a row.
    """
    wanted = set(places)
    return Conversation(
        index=(0, turn, number),
        prompt_ids=of.prompt,
        completion_ids=completion,
        sampler_logprobs=(0.0,) * len(completion),
        advantage=1.0,
        weights=tuple(float(k in wanted) for k in range(len(completion))),
    )


def _of_places(
    learner: Learner,
    conversations: Sequence[Conversation],
    hosts: Hosts | None,
    function: Callable[[PackedRows], jax.Array],
) -> list[np.ndarray]:
    """What a function of rows says of the places that are asked for."""
    hosts, batches = hosts or Hosts(), pack(conversations, learner.packing)
    values = [
        fetched(hosts, learner, function(spread(hosts, learner, rows)))
        for rows in batches
    ]
    return unpack(values, batches, len(conversations))
