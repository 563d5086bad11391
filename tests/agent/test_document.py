"""Documents: read and chunked once, asked often; and the chunks that come next."""

import asyncio
import dataclasses
import os

import pytest
from callers import agent_on, together
from loops import BYTES, CONFIG, reply

from gru_mem_jax.agent import Document, GRUMemAgent
from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.config import replace_settings
from gru_mem_jax.agent.document import share_documents
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

TEXT = "".join(f"{i:04d} " for i in range(1000))  # 5000 bytes: several blocks
FIRST = replace_settings(CONFIG, order="chunk_first")


class Counting(ByteEncoder):
    """Counts the characters that it tokenised as parts of documents."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def encode_with_offsets(self, text):
        self.seen += len(text) if len(text) > 50 else 0  # a memory is shorter
        return super().encode_with_offsets(text)


def say(request):
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{said['question'].strip()} {said['memory'].strip()}}}"
    return reply(update=said["chunk"][:4])


def agent_of(encoder, config=CONFIG, **kwargs):
    return GRUMemAgent(ScriptedGenerator(say, encoder, **kwargs), encoder, config)


# -- documents ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "path", "pieces", "generator", "file"])
def test_a_document_is_its_text(kind, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    pieces = [TEXT[:7], "", TEXT[7:]]
    with open(path) as file:
        made = {
            "text": TEXT,
            "path": path,
            "pieces": pieces,
            "generator": iter(pieces),
            "file": file,
        }
        document = Document(made[kind])
        assert document.text == TEXT
    assert "".join(document) == TEXT
    path.unlink(missing_ok=True)
    for size in (10, 33):
        expected = list(iter_chunks(TEXT, BYTES, size))
        assert list(document.chunks(BYTES, size)) == expected
        assert list(iter_chunks(document, BYTES, size)) == expected


def test_nothing_is_read_before_it_is_needed_and_then_once():
    taken = []
    document = Document(taken.append(c) or c for c in "abcdef")
    assert taken == []
    assert document.text == document.text == "abcdef"
    assert taken == list("abcdef")


def test_chunks_are_made_once_for_an_encoder_and_a_size():
    encoder, other = Counting(), Counting()
    document = Document(TEXT)
    first = document.chunks(encoder, 20)
    assert next(first).text == TEXT[:20]
    assert encoder.seen < 1100  # the first block alone
    for _ in range(3):
        list(document.chunks(encoder, 20))
    assert encoder.seen == len(TEXT)
    assert [c.index for c in first] == list(range(1, 250))
    list(document.chunks(other, 20))
    list(document.chunks(encoder, 30))
    assert (encoder.seen, other.seen) == (2 * len(TEXT), len(TEXT))


def test_threads_read_one_document():
    encoder, document = Counting(), Document(iter([TEXT[:99], TEXT[99:]]))
    expected = list(iter_chunks(TEXT, BYTES, 15))
    results = together(*[lambda: list(document.chunks(encoder, 15))] * 4)
    assert results == [expected] * 4
    assert encoder.seen == len(TEXT)


def test_agents_in_any_way_give_the_answers_of_the_text():
    encoder, document = Counting(), Document(TEXT[:400])
    agent = agent_of(encoder, capacity=3)
    plain = [agent_of(ByteEncoder()).answer(q, TEXT[:400]) for q in ("Who?", "Why?")]

    async def in_tasks():
        many = [("Who?", document), ("Why?", document)]
        return [await agent.answer_async("Who?", document)] + (
            await agent.answer_many_async(many)
        )

    def texts(trajectory):
        return [turn.text for turn in trajectory.turns]

    assert texts(agent.answer("Who?", document)) == texts(plain[0])
    streamed = [turn.text for turn in agent.stream("Why?", document)]
    assert streamed == texts(plain[1])
    one, *many = asyncio.run(in_tasks())
    assert [texts(t) for t in (one, *many)] == [texts(plain[i]) for i in (0, 0, 1)]
    assert encoder.seen == 400


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (b"bytes", "got bytes: decode it first"),
        (None, "the context must be text, a path or an iterable of texts, got None"),
        ({"a": "b"}, "which has keys"),
    ],
)
def test_refuses_what_is_no_context(context, message):
    with pytest.raises(InputError, match=message):
        Document(context)


def test_faults_of_the_text_come_with_the_first_use(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Document(tmp_path / "none")
    for pieces, message in (
        (["ab", "c\ud800"], r"the context: character 3 is the lone surrogate U\+D800"),
        (["ab", b"c"], "got a piece of type bytes"),
    ):
        document = Document(iter(pieces))
        with pytest.raises(InputError, match=message):
            agent_of(BYTES).answer("Who?", document)
        with pytest.raises(RunError, match="was not read to its end before: make a"):
            agent_of(BYTES).answer("Who?", document)


def test_an_interrupted_tokenisation_begins_again():
    class Interrupted(ByteEncoder):
        calls = 0

        def encode_with_offsets(self, text):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().encode_with_offsets(text)

    encoder, document = Interrupted(), Document(TEXT)
    early = document.chunks(encoder, 15)
    head = [next(early) for _ in range(5)]
    with pytest.raises(KeyboardInterrupt):
        list(document.chunks(encoder, 15))
    expected = list(iter_chunks(TEXT, BYTES, 15))
    assert list(document.chunks(encoder, 15)) == expected
    assert [*head, *early] == expected


# -- equal contexts of several questions ----------------------------------------------


def test_equal_contexts_become_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pieces, own = ["a", "b"], Document("abc")
    contexts = ["abc", path, pieces, "abc", "other", path, pieces, ["a", "b"]]
    contexts += [fifo, fifo, own, own, "".join(["a", "bc"])]
    pairs = [(str(i), context) for i, context in enumerate(contexts)]
    shared = list(share_documents(pairs, at_once=True))
    assert [question for question, _ in shared] == [q for q, _ in pairs]
    made = [context for _, context in shared]
    for places in ((0, 3, 12), (1, 5), (2, 6)):
        assert len({id(made[i]) for i in places}) == 1
        assert isinstance(made[places[0]], Document)
    for i in (4, 7, 8, 9, 10, 11):
        assert made[i] is contexts[i]
    assert made[1].text == "abc"


def test_pairs_that_are_given_one_by_one_are_taken_one_by_one():
    taken = []

    def pairs():
        for i, text in enumerate(["a", "b", "b", "b", "a"]):
            taken.append(i)
            yield i, text

    shared = share_documents(pairs(), at_once=False)
    made = []
    for number, context in shared:
        assert taken[-1] == number
        made.append(context)
    assert made[:2] == ["a", "b"]
    assert made[2] is made[3]
    assert isinstance(made[2], Document)
    assert made[4] == "a"


@pytest.mark.parametrize("capacity", [1, 3])
def test_answer_many_chunks_equal_contexts_once(capacity, tmp_path):
    text = TEXT[:300]
    path = tmp_path / "a.txt"
    path.write_text(text)
    questions = [(f"Q{i}", (text, path)[i % 2]) for i in range(6)]

    def texts(trajectories):
        return [[turn.text for turn in t.turns] for t in trajectories]

    alone = [agent_of(BYTES).answer(*pair) for pair in questions]
    encoder = Counting()
    agent = agent_of(encoder, capacity=capacity)
    assert texts(agent.answer_many(questions)) == texts(alone)
    assert encoder.seen == 2 * len(text)
    assert texts(asyncio.run(agent.answer_many_async(questions))) == texts(alone)
    assert encoder.seen == 4 * len(text)
    one_by_one = (pair for pair in questions if pair[1] == text)
    assert texts(agent.answer_many(one_by_one)) == texts(alone[::2])
    assert encoder.seen == 6 * len(text)  # the first, and once for all others


def test_streams_are_still_read_no_further_than_needed():
    taken = 0

    def stream():
        nonlocal taken
        while True:
            taken += 10
            yield "word word "

    config = replace_settings(FIRST, max_chunks=2, prefill_ahead=50)
    for _ in range(2):
        taken = 0
        agent = agent_on(ScriptedGenerator(say, BYTES), config)
        (trajectory,) = agent.answer_many([("Who?", stream())])
        assert trajectory.num_chunks == 2
        assert taken <= 1024 + 20


# -- chunks ahead ---------------------------------------------------------------------


def test_what_is_known_ahead_of_a_text():
    chunks = iter_chunks("0123456789" * 4, BYTES, 10)
    assert [c.index for c in chunks.ahead(2)] == [0, 1]
    assert next(chunks).index == 0
    assert [c.index for c in chunks.ahead(9)] == [1, 2, 3]
    assert chunks.ahead(0) == ()
    assert [c.index for c in chunks] == [1, 2, 3]
    assert chunks.ahead(1) == ()


def test_what_is_known_ahead_of_a_stream_is_what_was_read():
    taken = 0

    def stream():
        nonlocal taken
        for _ in range(400):
            taken += 10
            yield "word word "

    chunks = iter_chunks(stream(), BYTES, 100)
    assert chunks.ahead(5) == ()
    assert taken == 0
    assert next(chunks).index == 0
    read = taken
    known = chunks.ahead(50)
    assert taken == read
    assert 5 <= len(known) <= 10
    for chunk in known:
        assert next(chunks) == chunk
    assert taken == read


def test_a_fault_further_on_is_raised_where_it_is():
    text = TEXT[:1500] + "\ud800"
    chunks = iter_chunks(text, BYTES, 10)
    found = [next(chunks)]
    found += chunks.ahead(1000)
    assert len(found) > 90
    for chunk in found[1:]:
        assert next(chunks) == chunk
    for _ in range(2):
        with pytest.raises(InputError, match="lone surrogate"):
            next(chunks)


@pytest.mark.parametrize("mode", ["without_exit_gate", "memagent"])
def test_requests_name_the_beginnings_of_the_next_prompts(mode):
    config = replace_settings(FIRST, mode=mode, prefill_ahead=2)
    agent = agent_of(BYTES, config)
    agent.answer("Who?", "0123456789" * 4)
    *reading, answer = agent.generator.requests
    assert answer.ahead == ()
    assert [len(request.ahead) for request in reading] == [2, 2, 1, 0]
    for i, request in enumerate(reading):
        for j, ahead in enumerate(request.ahead, i + 1):
            assert [s.role for s in ahead] == [
                "control",
                "chunk",
                "control",
                "question",
            ]
            whole = prompt_ids(reading[j].prompt)
            assert prompt_ids(ahead) == whole[: len(prompt_ids(ahead))]
            assert len(prompt_ids(ahead)) < len(whole)


def test_nothing_is_named_where_it_cannot_be_shared_or_will_not_be_read(tmp_path):
    def named(context, **settings):
        agent = agent_of(BYTES, replace_settings(FIRST, **settings))
        agent.answer("Who?", context)
        return [len(request.ahead) for request in agent.generator.requests]

    text = "0123456789" * 4
    assert named(text) == [0] * 5
    assert named(text, prefill_ahead=3, order="memory_first") == [0] * 5
    assert named(text, prefill_ahead=3, max_chunks=3) == [2, 1, 0, 0]
    # That the last chunk of a stream is whole is known when the stream has ended.
    assert named(iter(text), prefill_ahead=3) == [2, 1, 0, 0, 0]
    assert named(Document(iter(text)), prefill_ahead=3) == [3, 2, 1, 0, 0]
    (tmp_path / "a.txt").write_text(text)
    assert named(tmp_path / "a.txt", prefill_ahead=3) == [3, 2, 1, 0, 0]
    limited = {"prefill_ahead": 3, "deadline_seconds": 60}
    assert named(iter(text), **limited) == [2, 1, 0, 0, 0]


def test_prefill_ahead_changes_neither_requests_nor_results():
    text = "0123456789" * 6
    plain, ahead = (
        agent_of(BYTES, replace_settings(FIRST, prefill_ahead=n)) for n in (0, 3)
    )
    one, other = (a.answer("Who?", text) for a in (plain, ahead))
    for a, b in zip(plain.generator.requests, ahead.generator.requests, strict=True):
        assert dataclasses.replace(b, ahead=(), pin=a.pin) == a
    assert [t.text for t in one.turns] == [t.text for t in other.turns]
    assert one.answer == other.answer


def test_a_run_may_be_resumed_with_another_prefill_ahead():
    config = replace_settings(FIRST, prefill_ahead=2)
    agent = agent_of(BYTES, config)
    rec = agent.recurrence("Who?", TEXT[:60])
    rec.next_request()
    rec.stop("interrupted")
    later = agent_of(BYTES, replace_settings(config, prefill_ahead=0))
    again = later.recurrence("Who?", TEXT[:60], resume=rec.trajectory)
    assert again.next_request().ahead == ()


def test_the_setting_is_checked():
    with pytest.raises(InputError, match="prefill_ahead must be from 0 to"):
        replace_settings(CONFIG, prefill_ahead=-1)
