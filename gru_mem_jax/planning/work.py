"""The work of a step by formula: tokens, rows and FLOPs of rollouts and of an update.

A rollout reads all chunks of its document, one turn each, and answers. With chunk-first
prompts the rollouts of a question share template, chunk and question of a turn.
"""

import dataclasses
import math
from collections.abc import Iterator

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.config import PolicyConfig
from gru_mem_jax.rl.packing import PackConfig

# Tokens of a paragraph of Wikipedia in HotpotQA: 28 thousand in MemAgent's 200.
_PARAGRAPH = 140
# Of a chat template and the longest of our prompts around what is inserted, taken where
# there is no tokenizer: 227 in the tokens of Qwen2.5, and room for a system prompt.
TEMPLATE = 290
_QUESTION = 50  # of a question, on average


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """The turns of a step, mean lengths in tokens.

    Attributes:
      questions: P.
      group: G, rollouts of each.
      chunks: turns of a rollout before the answer's.
      template, chunk, question, memory, completion: of a turn.
      shares: whether the rollouts of a question share all before the memory.
    """

    questions: int
    group: int
    chunks: int
    template: int
    chunk: int
    question: int
    memory: int
    completion: int
    shares: bool

    @property
    def rollouts(self) -> int:
        """P G."""
        return self.questions * self.group

    @property
    def shared(self) -> int:
        """Tokens of a turn's prompt that a group has in common."""
        return self.template + self.chunk + self.question if self.shares else 0

    @property
    def own(self) -> int:
        """Tokens of a turn's prompt that each rollout has for itself."""
        return self.prompt - self.shared

    @property
    def prompt(self) -> int:
        """Tokens of a turn's prompt."""
        return self.template + self.chunk + self.question + self.memory

    @property
    def answer_prompt(self) -> int:
        """Tokens of the answer turn's prompt; nothing of it is shared."""
        return self.template + self.question + self.memory

    @property
    def sampled(self) -> int:
        """Tokens that a step samples."""
        return self.rollouts * (self.chunks + 1) * self.completion

    def prefilled(self) -> Iterator[tuple[int, int, int]]:
        """(how often, tokens that are computed, tokens that stand before them)."""
        turns = self.rollouts * self.chunks
        if self.shares:
            yield self.questions * self.chunks, self.shared, 0
        yield turns, self.own, self.shared
        yield self.rollouts, self.answer_prompt, 0

    def learned(self, trees: bool) -> Iterator[tuple[int, int, int]]:
        """The same of a pass of the learner; `trees`: rows share prefixes."""
        turns = self.rollouts * self.chunks
        if self.shares and trees:
            yield self.questions * self.chunks, self.shared, 0
            yield turns, self.own + self.completion, self.shared
        else:
            yield turns, self.prompt + self.completion, 0
        yield self.rollouts, self.answer_prompt + self.completion, 0


def turns_of_a_step(
    agent: AgentConfig,
    questions: int,
    group: int,
    document: int,
    completion: int | None = None,
    template: int = TEMPLATE,
) -> Turns:
    """Mean lengths of a step's turns.

    Args:
      agent: how contexts are read.
      questions: P of a step.
      group: G.
      document: tokens of a document.
      completion: tokens that a turn samples; None: the budget.
      template: tokens of a prompt around what is inserted.
    """
    completion = min(completion or agent.completion_tokens, agent.completion_tokens)
    chunks = max(1, -(-document // agent.chunk_size))
    return Turns(
        questions=questions,
        group=group,
        chunks=min(chunks, agent.max_chunks or chunks),
        template=template,
        chunk=min(agent.chunk_size, document),
        question=min(_QUESTION, agent.question_tokens),
        memory=min(completion, agent.memory_tokens),
        completion=completion,
        shares=agent.chunk_first,
    )


def document_tokens(source: object) -> int | None:
    """Tokens of a source's documents, about; None: its settings do not tell."""
    paragraphs = getattr(source, "paragraphs", None)
    if paragraphs is not None:
        return int(paragraphs) * _PARAGRAPH
    config = getattr(source, "config", None)
    words = getattr(config, "num_chunks", 0) * getattr(config, "chunk_tokens", 0)
    return words or None


def longest_turn(agent: AgentConfig, template: int = TEMPLATE) -> int:
    """Tokens of the longest turn within the budgets."""
    budgets = (agent.question_tokens, agent.memory_tokens, agent.completion_tokens)
    return template + agent.chunk_size + sum(budgets)


def layer_params(shape: PolicyConfig) -> int:
    """Numbers in the kernels of all layers."""
    heads = shape.num_attention_heads + shape.num_key_value_heads
    attention = 2 * heads * shape.head_dim * shape.hidden_size
    feed_forward = 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_hidden_layers * (attention + feed_forward)


def layers_flops(shape: PolicyConfig, new: int, before: int = 0) -> float:
    """Of a forward pass of `new` tokens behind `before` others, without the head.

    2 n params + 4 N Q H (n before + n^2 / 2): each token sees those before it. In a
    sliding layer at most its window.
    """
    width = shape.num_attention_heads * shape.head_dim
    seen = sum(_pairs(new, before, window) for window in shape.windows)
    return 2.0 * new * layer_params(shape) + 4.0 * width * seen


def head_flops(shape: PolicyConfig, tokens: int) -> float:
    """Of the logits of so many tokens."""
    return 2.0 * tokens * shape.hidden_size * shape.vocab_size


def turn_flops(
    shape: PolicyConfig, prompt: int, completion: int, shared: int = 0
) -> float:
    """Of one turn as an engine runs it; what its prompt shares is not computed again.

    Args:
      shape: of the policy.
      prompt, completion: tokens. The last of a completion is not fed.
      shared: tokens of the prompt whose keys are there.
    """
    new = prompt - shared + completion - 1
    return layers_flops(shape, new, shared) + head_flops(shape, completion)


def prefill_flops(shape: PolicyConfig, turns: Turns) -> float:
    """Of all prompts of a step."""
    parts = turns.prefilled()
    return sum(n * layers_flops(shape, new, before) for n, new, before in parts)


def learner_flops(
    shape: PolicyConfig, turns: Turns, rows: "Rows", trees: bool = True
) -> float:
    """Of one forward pass over a step's rows, padding included.

    Args:
      shape: of the policy.
      turns, rows: of a step.
      trees: whether rows share prefixes.
    """
    parts = list(turns.learned(trees))
    flops = sum(n * layers_flops(shape, new, before) for n, new, before in parts)
    padding = rows.tokens - sum(n * new for n, new, _ in parts)
    flops += 2.0 * max(0, padding) * layer_params(shape)
    return flops + head_flops(shape, turns.sampled)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed rows of a step.

    Attributes:
      count: rows.
      length: tokens of each, padding included.
    """

    count: int
    length: int

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.count * self.length

    def micro_batches(self, packing: PackConfig, parts: int) -> int:
        """Micro-batches of `parts` optimiser steps."""
        return parts * math.ceil(self.count / parts / packing.rows)


def rows_of_a_step(turns: Turns, packing: PackConfig) -> Rows:
    """How the turns of a step are packed, if all are as long as the mean.

    Raises:
      InputError: a turn is longer than a row.
    """
    most = packing.row_tokens
    own = turns.own + turns.completion
    if turns.shared + own > most:
        raise InputError(
            f"a turn of {turns.shared + own} tokens is longer than row_tokens {most}"
        )
    shares = turns.shares and packing.share_prefixes
    per_tree = min(turns.group, (most - turns.shared) // own) if shares else 1
    tree = turns.shared + per_tree * own
    per_row = most // tree
    length = next(n for n in packing.lengths if n >= per_row * tree)
    trees = turns.questions * turns.chunks * math.ceil(turns.group / per_tree)
    # Answers are short: they fill what is left of the rows, or rows of their own.
    answers = turns.rollouts * (turns.answer_prompt + turns.completion)
    count = math.ceil(trees / per_row)
    left = count * (length - per_row * tree)
    return Rows(count + math.ceil(max(0, answers - left) / length), length)


def _pairs(new: int, before: int, window: int | None) -> float:
    """Pairs of a new token and a token that it sees, half of the diagonal left out."""
    if window is None or window >= new + before:
        return new * before + new * new / 2
    full = max(0, new - max(0, window - before))  # those that see a whole window
    rising = new - full
    return full * window + rising * before + rising * rising / 2
