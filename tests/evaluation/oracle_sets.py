"""Synthetic questions, and a script that answers them as an ideal policy would."""

import dataclasses
import re

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.data.example import Example
from gru_mem_jax.data.sources import ListSource
from gru_mem_jax.evaluation.questions import draw_sets
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in
from gru_mem_jax.tiny import oracle
from gru_mem_jax.tiny.sources import SyntheticSuite

ENCODER = ByteEncoder()
CONFIG = AgentConfig(
    chunk_size=300,
    question_tokens=200,
    memory_tokens=400,
    completion_tokens=900,
    prompt_tokens=4000,
    prompt=PromptConfig(style="compact"),
)
BUILDER = PromptBuilder(ENCODER, CONFIG.prompt)
NEEDLE = re.compile(r"The code for (\w+) is (\w+ \w+ \w+)\.")


def blocks_of(example, size):
    """The example on a document whose blocks have `size` bytes: none is split."""
    text, spans, starts = [], [], []
    sentences = re.findall(r"[^.]*\.", example.document)
    length = 0
    for sentence in sentences:
        sentence = sentence.strip()
        room = size - length % size
        if len(sentence) + 1 > room:
            text.append(" " * room)
            length += room
        starts.append((sentence, length))
        text.append(sentence + " ")
        length += len(sentence) + 1
    gold = {example.document[a:b] for a, b in example.evidence}
    spans = tuple((s, s + len(t)) for t, s in starts if t in gold)
    return Example(
        id=example.id,
        question=example.question,
        answers=example.answers,
        document="".join(text),
        evidence=spans,
        task=example.task,
        scoring=example.scoring,
    )


def oracle_generator(**kwargs):
    """Reads each prompt as an ideal policy would; memory holds the sentences found."""

    def say(request):
        shown = said_in(request, ENCODER)
        asked = oracle.parse_question(shown["question"].strip())
        found = NEEDLE.findall(shown["memory"])
        if "chunk" not in shown:
            return oracle.answer_turn(asked, found)
        new = [f for f in NEEDLE.findall(shown["chunk"]) if f[0] in asked.keys]
        if "<rewrite>" not in shown["control"]:
            new = [f for f in new if f not in found]  # in a further pass: nothing
        memory = " ".join(f"The code for {k} is {v}." for k, v in (*found, *new))
        if "<rewrite>" in shown["control"]:
            return memory or "none"
        end = oracle.is_complete(asked, (*found, *new))
        return (
            f"<think>t</think><check>{'yes' if new else 'no'}</check>"
            f"<update>{memory if new else ''}</update>"
            f"<next>{'end' if end else 'continue'}</next>"
        )

    return ScriptedGenerator(say, ENCODER, **kwargs)


def question_sets(tasks=("single_key", "multi_query"), questions=4, mix=()):
    config = SyntheticSuite(
        tasks=tasks, contexts=(("uniform", 8),), num_questions=questions
    )
    sets = []
    for item in config.question_sets():
        examples = (item.source.example(i) for i in range(item.count))
        blocks = tuple(blocks_of(example, CONFIG.chunk_size) for example in examples)
        source = ListSource(examples=blocks)
        sets.append(
            dataclasses.replace(item, source=source, in_mix=item.name in (mix or tasks))
        )
    return draw_sets(sets, BUILDER, CONFIG)
