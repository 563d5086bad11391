"""The recurrence, turn by turn, on scripts whose outcome can be read off."""

import hashlib
import itertools
import threading
import tracemalloc

import pytest
from loops import BYTES, CONFIG, recurrence, reply, run

from gru_mem_jax.agent.chunking import evidence_labels
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion, prompt_ids
from gru_mem_jax.agent.turn_requests import request_seed
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.testing.scripted import ScriptedGenerator, prompt_text, said_in

ANSWER = r"\boxed{42}"


def test_gates_and_memory_by_hand():
    script = [
        reply("no", "ignored"),  # the gate is shut: the candidate is not looked at
        reply("yes", "first"),
        reply("yes", "first second"),
        ANSWER,
    ]
    trajectory, generator = run(script, recurrence())
    assert trajectory.answer == "42"
    assert trajectory.stop_reason == "end_of_context"
    assert trajectory.num_chunks == 3
    assert [t.kind for t in trajectory.turns] == ["memory"] * 3 + ["answer"]
    assert [t.chunk for t in trajectory.turns] == [0, 1, 2, None]
    assert [t.update for t in trajectory.turns] == [False, True, True, None]
    assert [t.exit for t in trajectory.turns] == [False, False, False, None]
    memories = ["", "first", "first second"]
    assert [t.memory for t in trajectory.turns] == [*memories, "first second"]
    before = [t.memory_before for t in trajectory.turns]
    assert before == ["", "", "first", "first second"]
    # " first second" has 13 bytes.
    assert [t.memory_tokens for t in trajectory.turns] == [0, 6, 13, 13]
    assert trajectory.well_formed
    assert trajectory.borders == ((0, 10), (10, 20), (20, 30))
    assert evidence_labels(trajectory.borders, [(12, 15)])[1] == 1
    # What each prompt showed is what the turns say.
    said = [said_in(r, BYTES) for r in generator.requests]
    assert [s["memory"] for s in said] == [
        " none", " none", " first", " first second",
    ]  # fmt: skip
    assert [s.get("chunk") for s in said] == ["0123456789"] * 3 + [None]
    assert {s["question"] for s in said} == {" Who?"}


@pytest.mark.parametrize(
    ("mode", "chunks", "reason"),
    [
        ("with_exit_gate", 2, "exit_gate"),
        ("without_exit_gate", 3, "end_of_context"),
    ],
)
def test_exit_gate(mode, chunks, reason):
    replies = [reply(), reply(exit_="end"), reply(exit_="end")]
    script = [*replies[:chunks], ANSWER]
    trajectory, _ = run(script, recurrence(mode=mode))
    assert (trajectory.num_chunks, trajectory.stop_reason) == (chunks, reason)
    assert trajectory.turns[1].exit is True  # told either way
    assert trajectory.answer == "42"


def test_exit_gate_takes_the_update_of_its_own_turn():
    trajectory, _ = run([reply("yes", "m1", "end"), ANSWER], recurrence())
    assert trajectory.turns[-1].memory == "m1"


def test_memagent_takes_the_whole_completion():
    script = ["  the memory\n", reply("no", exit_="end")[:60], "", ANSWER]
    trajectory, generator = run(
        script, recurrence(mode="memagent", memory_tokens=30, prompt_tokens=500)
    )
    first, second, third = trajectory.memory_turns
    assert (first.memory, first.update, first.exit) == ("the memory", True, False)
    # Whatever it says, it is memory; too long, it is cut.
    assert second.memory == "<think>t</think><check>no</ch"[:29]
    assert second.memory_cut
    assert (third.memory, third.memory_tokens) == ("", 0)
    assert trajectory.well_formed
    assert "<rewrite>" in prompt_text(generator.requests[0], BYTES)
    assert said_in(generator.requests[3], BYTES)["memory"] == " none"


@pytest.mark.parametrize("mode", ["with_exit_gate", "memagent"])
def test_cut_at_the_limit(mode):
    def cut(text):
        ids = tuple(BYTES.encode(text))
        zeros = (0.0,) * len(ids)
        return Completion(
            ids=ids, logprobs=zeros, sampling_logprobs=zeros, finish_reason="length"
        )

    whole = "m2 é"
    script = [
        "m1" if mode == "memagent" else reply("yes", "m1"),
        cut(whole)
        if mode == "memagent"
        # Well formed as far as it goes, and yet it was cut.
        else Completion(
            ids=tuple(BYTES.encode_control(reply("yes", "m2", "end"))),
            logprobs=(),
            sampling_logprobs=(),
            finish_reason="length",
        ),
        cut(r"\boxed{7} and"),
    ]
    trajectory, _ = run(script, recurrence("x" * 20, mode=mode))
    _, turn, answer = trajectory.turns
    assert (turn.well_formed, turn.problem) == (False, "cut at the token limit")
    # MemAgent keeps what there is; a gated turn changes nothing and reads on.
    assert turn.memory == ("m2 é" if mode == "memagent" else "m1")
    assert turn.update is (mode == "memagent")
    assert turn.exit is False
    assert (answer.well_formed, trajectory.answer) == (False, "7")
    assert not trajectory.well_formed


def test_malformed_turns_leave_the_memory_and_read_on():
    script = [reply(update="kept"), "nonsense", reply() + "!", ANSWER]
    trajectory, _ = run(script, recurrence())
    assert [t.memory for t in trajectory.turns] == ["kept"] * 4
    assert [t.well_formed for t in trajectory.turns] == [True, False, False, True]
    problems = [t.problem for t in trajectory.turns]
    assert problems == [None, "<think> missing", "text outside the elements", None]


def test_no_box_no_answer_but_the_text_is_kept():
    trajectory, _ = run([reply(), "It is 42."], recurrence("x"))
    assert trajectory.answer is None
    assert trajectory.turns[-1].text == "It is 42."
    assert trajectory.turns[-1].problem == r"no \boxed{} in the answer"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (r"It is \boxed{\text{Ada Lovelace}}.", "Ada Lovelace"),
        (r"\boxed {50\%}", "50%"),
        (r"\fbox{New~York}", "New York"),
        (r"\boxed{$\frac{1}{2}$}", r"\frac{1}{2}"),
        (r"\boxed{\text{}}", ""),
    ],
)
def test_an_answer_is_plain_text_and_the_turn_keeps_what_was_said(said, answer):
    trajectory, _ = run([reply(), said], recurrence("x"))
    assert trajectory.answer == answer
    assert trajectory.turns[-1].text == said
    assert trajectory.well_formed


def test_long_memory_is_cut_to_its_budget():
    trajectory, generator = run([reply(update="é" * 20), ANSWER], recurrence("x"))
    turn = trajectory.turns[0]
    # A space and seven characters of two bytes fit in 16 bytes.
    assert (turn.memory, turn.memory_tokens, turn.memory_cut) == ("é" * 7, 15, True)
    assert said_in(generator.requests[1], BYTES)["memory"] == " " + "é" * 7


def test_empty_context_goes_straight_to_the_answer():
    for context in ("", [], ["", ""], iter(())):
        trajectory, _ = run([ANSWER], recurrence(context))
        assert trajectory.stop_reason == "empty_context"
        assert (trajectory.num_chunks, trajectory.answer) == (0, "42")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "the question must be text that is not empty"),
        (" \n", "the question must be text that is not empty"),
        (None, "the question must be text"),
        ("x" * 40, "the question has 41 tokens, more than question_tokens 32"),
        ("a\udcff", "the question: character 1 is the lone surrogate U\\+DCFF"),
    ],
)
def test_questions_that_cannot_be_asked(question, message):
    with pytest.raises(InputError, match=message):
        recurrence(question=question)


def test_budgets_over_the_prompts_are_refused_at_once():
    with pytest.raises(InputError, match="prompt_tokens is 80, but the gated prompt"):
        recurrence(prompt_tokens=80)
    with pytest.raises(InputError, match="prompt builder"):
        Recurrence(PromptBuilder(BYTES), CONFIG, "Who?", "x")


def test_requests_carry_the_settings():
    rec = recurrence(temperature=0.5, top_k=7, top_p=0.9, seed=3)
    request = rec.next_request()
    assert (request.temperature, request.top_k, request.top_p) == (0.5, 7, 0.9)
    assert request.max_new_tokens == 200
    assert request.stop_ids == BYTES.stop_ids
    assert request.seed == request_seed(3, 0, 0)
    assert rec.next_request() is None  # until its completion comes
    generator = ScriptedGenerator([reply()], BYTES)
    generator.submit(request)
    rec.receive(generator.step()[0][1], request.number)
    assert rec.next_request().number == 1


def test_seeds_differ_and_depend_on_nothing_else():
    digest = hashlib.blake2b(b"3/5/7", digest_size=4).digest()
    assert request_seed(3, 5, 7) == int.from_bytes(digest, "little")
    seeds = {request_seed(*key) for key in itertools.product(range(10), repeat=3)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_trace():
    script = [reply(), ANSWER]
    plain, _ = run(script, recurrence("x"))
    assert plain.turns[0].prompt_ids is None
    traced, generator = run(script, recurrence("x", kwargs={"trace": True}))
    for turn, request in zip(traced.turns, generator.requests, strict=True):
        assert turn.prompt_ids == prompt_ids(request.prompt)
        assert len(turn.prompt_ids) == turn.prompt_tokens
        assert len(turn.completion_ids) == turn.completion_tokens
        assert len(turn.logprobs) == len(turn.sampling_logprobs)
    assert BYTES.decode(traced.turns[1].completion_ids) == ANSWER + "<|im_end|>"
    assert traced.prompt_tokens == sum(len(t.prompt_ids) for t in traced.turns)


def test_max_chunks_of_an_endless_stream():
    taken = itertools.count()
    stream = (f"{next(taken)} " for _ in itertools.count())
    script = [*[reply()] * 4, ANSWER]
    trajectory, _ = run(script, recurrence(stream, max_chunks=4))
    assert (trajectory.stop_reason, trajectory.num_chunks) == ("max_chunks", 4)
    assert trajectory.answer == "42"
    assert next(taken) < 1000  # no further than the first block


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_deadline_between_turns():
    clock = Clock()

    def say(request):
        clock.now += 4.0
        return reply() if "chunk" in said_in(request, BYTES) else ANSWER

    rec = recurrence("x" * 100, deadline_seconds=10, kwargs={"clock": clock})
    trajectory, _ = run(say, rec)
    # Turns end at 4, 8 and 12 seconds: no fourth is begun.
    assert (trajectory.stop_reason, trajectory.num_chunks) == ("deadline", 3)
    assert (trajectory.seconds, trajectory.answer) == (16.0, "42")


def test_deadline_of_a_stream_that_stalls():
    release = threading.Event()

    def stream():
        yield "0123456789" * 120
        release.wait(30)

    rec = recurrence(stream(), deadline_seconds=0.5)
    trajectory, _ = run(
        lambda r: reply() if "chunk" in said_in(r, BYTES) else ANSWER, rec
    )
    release.set()
    # The first block of 1024 characters was read, before the stream's end.
    assert trajectory.num_chunks >= 100
    assert (trajectory.stop_reason, trajectory.answer) == ("deadline", "42")


def test_memory_does_not_grow_with_the_document():
    """A million tokens from a stream, read to the end in chunks of 5000."""
    completion = _said(reply(update="m"))

    def peak(tokens):
        stream = ("0123456789abcde\n" * 64 for _ in range(tokens // 1024))
        rec = recurrence(
            stream, chunk_size=5000, prompt_tokens=6000, mode="without_exit_gate"
        )
        tracemalloc.start()
        while rec.next_request() is not None:
            rec.receive(completion)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rec.trajectory.num_chunks == -(-(tokens // 1024 * 1024) // 5000)
        return size

    small, large = peak(100_000), peak(1_000_000)
    # The trajectory grows: 180 turns of less than two kilobytes.
    assert large - small < 180 * 2000
    assert small < 20e6


def test_stop_from_outside():
    rec = recurrence()
    generator = ScriptedGenerator([reply(update="late")], BYTES)
    generator.submit(rec.next_request())
    rec.stop("enough")
    rec.receive(generator.step()[0][1])
    run([ANSWER], rec)
    # The turn under way still counts.
    assert rec.trajectory.stop_reason == "enough"
    assert (rec.trajectory.num_chunks, rec.trajectory.turns[-1].memory) == (1, "late")


def test_interrupted():
    rec = recurrence()
    rec.next_request()
    rec.receive(_said(reply(update="m1")))
    rec.next_request()
    rec.stop("interrupted")
    assert rec.done
    assert rec.next_request() is None
    trajectory = rec.trajectory
    assert (trajectory.interrupted, trajectory.stop_reason) == (True, "interrupted")
    assert (trajectory.num_chunks, trajectory.answer) == (1, None)
    with pytest.raises(RunError, match="no open request"):
        rec.receive(_said(ANSWER))


def test_an_error_of_the_stream_is_not_its_end():
    def stream():
        yield "x" * 2000
        raise InputError("byte 2000 is no UTF-8")

    rec = recurrence(stream())
    with pytest.raises(InputError, match="byte 2000"):
        run(lambda _: reply(), rec)
    assert rec.done
    assert rec.trajectory.interrupted
    assert rec.next_request() is None  # and no answer from a part


def _said(text):
    ids = (*BYTES.encode_control(text), BYTES.stop_ids[0])
    zeros = (0.0,) * len(ids)
    return Completion(
        ids=ids, logprobs=zeros, sampling_logprobs=zeros, finish_reason="stop"
    )
