"""Ways of reading: parallel scans and merges, and rereading, on scripts."""

import dataclasses
import itertools
import json
import random
import re
import threading

import pytest
from loops import BYTES, recurrence, reply, run

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.agent.trajectory import trajectory_from_dict, trajectory_to_dict
from gru_mem_jax.errors import InputError, RunError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

# A chunk "a=b......" is evidence if the memory, or the question's "?a", ends with "a".
WORDS = "abcdefgh"


def chunk(text):
    return text.ljust(10, ".")


def follow(request):
    """Follows a chain: opens its gate on "x=y" where the memory's last letter is x."""
    said = said_in(request, BYTES)
    memory = said["memory"].strip()
    memory = "" if memory == "none" else memory
    if "chunk" not in said:
        return rf"\boxed{{{memory[-1:]}}}"
    last = memory[-1:] or said["question"].strip()[-1]
    new = memory or last
    for found in re.findall(r"(\w)=(\w)", said["chunk"]):
        if found[0] == new[-1]:
            new += found[1]
    if len(new) > len(memory or last):
        return reply("yes", new)
    return reply("no", "")


def chain(order, size=12, seed=0):
    """A text of `size` chunks with the hops a=b, b=c, ... at the places of `order`."""
    chunks = [chunk(f"x{i:02d}") for i in range(size)]
    for place, (one, other) in zip(order, itertools.pairwise(WORDS)):
        chunks[place] = chunk(f"{one}={other}")
    return "".join(chunks)


def steps(trajectory):
    return [(t.pass_number, t.step, t.chunk) for t in trajectory.memory_turns]


def comparable(trajectory):
    turns = tuple(dataclasses.replace(t, seconds=0.0) for t in trajectory.turns)
    return dataclasses.replace(trajectory, seconds=0.0, turns=turns)


def test_parallel_by_hand():
    """Two values of one key in one pass; the second merge sees the first."""
    text = chunk("a=b") + chunk("no") + chunk("a=c") + chunk("no")

    def both(request):
        said = said_in(request, BYTES)
        if "chunk" not in said:
            return rf"\boxed{{{said['memory']}}}"
        memory = said["memory"].replace("none", "").strip()
        found = re.findall(r"a=(\w)", said["chunk"])
        return reply("yes", f"{memory}{found[0]}") if found else reply("no")

    trajectory, generator = run(both, recurrence(text, "?a", mode="parallel"))
    assert steps(trajectory) == [
        *((1, "scan", i) for i in range(4)),
        (1, "merge", 2),
        (2, "scan", 1),
        (2, "scan", 3),
    ]
    assert [t.memory for t in trajectory.turns] == ["b", "", "c", "", *["bc"] * 4]
    assert [t.memory_before for t in trajectory.turns] == [
        "",
        "",
        "",
        "",
        *["b"] * 1,
    ] + ["bc"] * 3
    assert trajectory.answer == "bc"
    assert (trajectory.num_chunks, trajectory.stop_reason) == (4, "end_of_context")
    assert trajectory.borders == ((0, 10), (10, 20), (20, 30), (30, 40))
    said = [said_in(r, BYTES) for r in generator.requests]
    assert [s["memory"] for s in said] == [" none"] * 4 + [" b"] + [" bc"] * 3
    assert [r.number for r in generator.requests] == list(range(8))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_passes_find_what_matters_only_later(order):
    """A chain in any order of its hops; what one pass of reading in order misses."""
    places = [2 + 3 * i for i in order]
    text = chain(places)
    answers = {
        mode: run(follow, recurrence(text, "?a", mode=mode, max_passes=4))[0]
        for mode in ("without_exit_gate", "reread", "parallel")
    }
    in_order = places == sorted(places)
    assert (answers["without_exit_gate"].answer == "d") is in_order
    assert answers["reread"].answer == answers["parallel"].answer == "d"
    once = recurrence(text, "?a", mode="parallel", max_passes=1)
    # A single pass sees one memory: the hop that the question names, and what follows
    # in its merges, which is none, as no other gate was open.
    assert run(follow, once)[0].answer == "b"


def test_reread_ends_when_a_pass_changes_nothing():
    trajectory, _ = run(follow, recurrence(chain([5, 2]), "?a", mode="reread"))
    assert trajectory.answer == "c"
    assert steps(trajectory) == [(p, "read", i) for p in (1, 2, 3) for i in range(12)]
    trajectory, _ = run(follow, recurrence(chain([2, 5]), "?a", mode="reread"))
    assert steps(trajectory) == [(p, "read", i) for p in (1, 2) for i in range(12)]
    one = recurrence(chain([5, 2]), "?a", mode="reread", max_passes=1)
    assert run(follow, one)[0].answer == "b"
    # The exit gate is not obeyed, and told.
    script = [reply("no", exit_="end")] * 3 + [r"\boxed{1}"]
    trajectory, _ = run(script, recurrence(mode="reread"))
    assert [t.exit for t in trajectory.turns] == [True] * 3 + [None]
    assert (trajectory.answer, trajectory.stop_reason) == ("1", "end_of_context")


def says_all(request):
    """Opens every gate, with what depends on prompt and seed."""
    said = said_in(request, BYTES)
    if "chunk" not in said:
        return rf"\boxed{{{request.seed}}}"
    if request.seed % 7 == 0:
        return "malformed"
    memory = f"{said['memory'].strip()[-6:]}{said['chunk'][:3]}{request.seed % 10}"
    check = "yes" if request.seed % 3 else "no"
    return reply(check, memory, "end" if request.seed % 11 == 0 else "continue")


MANY = "".join(chunk(f"{i:02d} w") for i in range(23))
SETTINGS = [
    {},
    {"scan_chunks": 5},
    {"max_passes": 1},
    {"max_chunks": 9, "scan_chunks": 4},
    {"merge_until_exit": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_results_depend_on_no_order_and_no_company(settings):
    def begin(seed=5, **kwargs):
        kwargs = {"trajectory_id": 3, **kwargs}
        return recurrence(MANY, mode="parallel", seed=seed, kwargs=kwargs, **settings)

    whole, generator = run(says_all, begin())
    assert sum(t.step == "merge" for t in whole.turns) > 1
    assert generator.most_submitted == 1
    for shuffle in range(8):
        generator = ScriptedGenerator(
            says_all, BYTES, capacity=1 + 3 * shuffle, shuffle_seed=shuffle
        )
        others = [begin(seed=i) for i in range(shuffle)]
        own = begin()
        for _ in driver.run(generator, [*others, own], group_size=1 + shuffle // 3):
            pass
        assert comparable(own.trajectory) == comparable(whole)
        assert all(each.done for each in others)
        # A group is begun as a whole.
        assert generator.most_submitted <= generator.capacity + shuffle // 3
    assert generator.most_submitted >= generator.capacity


def test_a_lone_scan_fills_the_generator():
    generator = ScriptedGenerator(follow, BYTES, capacity=8)
    rec = recurrence(MANY, "?a", mode="parallel")
    next(driver.run(generator, [rec]))
    assert generator.most_submitted == 8


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("stream", [False, True])
def test_cut_anywhere_and_resumed(settings, stream):
    """Some completions of a scan have come, out of order; the rest is asked for."""

    def begin(resume=None):
        context = iter([MANY[:33], MANY[33:]]) if stream else MANY
        kwargs = {"trajectory_id": 3, "trace": True, "resume": resume}
        return recurrence(context, mode="parallel", seed=5, kwargs=kwargs, **settings)

    whole, _ = run(says_all, begin())
    for cut in range(0, len(whole.turns), 3):
        rec = begin()
        generator = ScriptedGenerator(says_all, BYTES, capacity=6, shuffle_seed=cut)
        taken = driver.run(generator, [rec])
        for _ in range(cut):
            next(taken)
        taken.close()
        rec.stop("interrupted")
        saved = trajectory_from_dict(
            json.loads(json.dumps(trajectory_to_dict(rec.trajectory)))
        )
        assert (len(saved.turns), saved.interrupted) == (cut, True)
        resumed, generator = run(says_all, begin(saved))
        assert comparable(resumed) == comparable(whole)
        assert len(generator.requests) == len(whole.turns) - cut


def test_a_resumed_run_is_the_same_run():
    rec = recurrence(MANY, mode="parallel", seed=5)
    taken = driver.run(ScriptedGenerator(says_all, BYTES, capacity=4), [rec])
    for _ in range(6):
        next(taken)
    rec.stop("interrupted")
    saved = rec.trajectory

    def resumed(context=MANY, saved=saved, **settings):
        settings = {"mode": "parallel", "seed": 5, **settings}
        again = recurrence(context, kwargs={"resume": saved}, **settings)
        return run(says_all, again)

    assert resumed()[0].answer
    for context in (MANY.replace("02 w", "02 v"), MANY[:30]):
        with pytest.raises(InputError, match="cannot resume: chunk"):
            resumed(context)
    with pytest.raises(InputError, match=r"cannot resume: settings\.max_passes"):
        resumed(max_passes=2)
    twice = dataclasses.replace(saved, turns=(*saved.turns, saved.turns[0]))
    with pytest.raises(InputError, match="not in order"):
        resumed(saved=twice)


def test_turns_of_earlier_runs_have_neither_pass_nor_step():
    record = trajectory_to_dict(run(follow, recurrence(MANY, "?a"))[0])
    for turn in record["turns"]:
        del turn["pass_number"], turn["step"]
    for name in ("max_passes", "scan_chunks", "max_merged", "merge_until_exit"):
        del record["settings"][name]
    read = trajectory_from_dict(record)
    assert {(t.pass_number, t.step) for t in read.turns} == {(1, "read")}
    again = recurrence(MANY, "?a", kwargs={"resume": read})
    assert again.done


def test_windows_of_a_stream_without_end():
    """No more is read than a window, each window sees the last one's memory."""
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield chunk("a=b" if i == 3 else "b=c" if i == 9 else f"{i}") * 110

    rec = recurrence(endless(), "?a", mode="parallel", scan_chunks=4, max_chunks=40)
    trajectory, _ = run(follow, rec)
    assert (trajectory.num_chunks, trajectory.stop_reason) == (40, "max_chunks")
    assert len(read) <= 3
    windows = [
        t.chunk for t in trajectory.turns if t.step == "scan" and t.pass_number == 1
    ]
    assert windows == list(range(40))


def test_a_stream_that_stalls_does_not_hold_up_its_scans():
    """While requests are open, the text is waited for only when they have ended."""
    begun, go_on = threading.Event(), threading.Event()

    def pieces():
        yield "x" * 1100  # more than a block, so that some chunks are known
        begun.set()
        go_on.wait(10)
        yield chunk("a=b")

    turns = []

    def watched(request):
        if len(turns) >= 20:
            go_on.set()
        return follow(request)

    rec = recurrence(pieces(), "?a", mode="parallel", max_passes=1)
    generator = ScriptedGenerator(watched, BYTES, capacity=4)
    for _, turn in driver.run(generator, [rec]):
        turns.append(turn)
    assert begun.is_set()
    assert rec.trajectory.answer == "b"


def test_stop_deadline_and_failure_within_a_scan():
    def parallel(**kwargs):
        settings = kwargs.pop("settings", {})
        return recurrence(
            MANY, mode="parallel", seed=5, kwargs=kwargs, max_passes=2, **settings
        )

    def driven(rec, act, capacity=4):
        generator = ScriptedGenerator(says_all, BYTES, capacity=capacity)
        for number, _ in enumerate(driver.run(generator, [rec])):
            act(number)
        return rec.trajectory

    # Stopped from outside: what is open still counts, the first candidate is taken
    # without a request, and the answer follows.
    rec = parallel()
    done = driven(rec, lambda number: rec.stop("enough") if number == 6 else None)
    assert (done.stop_reason, done.answer is not None) == ("enough", True)
    assert {t.step for t in done.memory_turns} == {"scan"}
    assert 7 <= len(done.memory_turns) <= 11
    first = next(t for t in done.memory_turns if t.update)
    assert done.turns[-1].memory == first.memory

    now = [0.0]
    rec = parallel(clock=lambda: now[0], settings={"deadline_seconds": 10})

    def late(number):
        now[0] = 11.0 if number == 6 else now[0]

    done = driven(rec, late)
    assert (done.stop_reason, done.answer is not None) == ("deadline", True)
    assert len(done.memory_turns) <= 11

    def failing(request):
        if said_in(request, BYTES)["chunk"].startswith("05"):
            return Completion.failed("gone")
        return says_all(request)

    rec = parallel()
    for _ in driver.run(ScriptedGenerator(failing, BYTES, capacity=4), [rec]):
        pass
    assert (rec.trajectory.failure, rec.trajectory.stop_reason) == ("gone", "failed")
    assert len(rec.trajectory.turns) == 5
    resumed = recurrence(
        MANY, mode="parallel", seed=5, kwargs={"resume": rec.trajectory}, max_passes=2
    )
    assert (
        comparable(run(says_all, resumed)[0]).turns
        == comparable(run(says_all, parallel())[0]).turns
    )


def test_merging_may_end_with_an_exit():
    def ending(request):
        said = said_in(request, BYTES)
        if "chunk" not in said:
            return r"\boxed{1}"
        number = said["chunk"][:2]
        return reply("yes", number, "end" if number in ("03", "05") else "continue")

    trajectory, _ = run(
        ending, recurrence(MANY, mode="parallel", merge_until_exit=True)
    )
    # A scan's own exit gate says nothing: chunk 3's counts when it is merged.
    assert steps(trajectory)[23:] == [(1, "merge", i) for i in (1, 2, 3)]
    assert trajectory.stop_reason == "exit_gate"
    assert trajectory.turns[-1].memory == "03"


def test_the_most_probable_are_merged():
    """By P(yes), where more gates are open than may be merged."""
    rng = random.Random(0)
    probabilities = [rng.random() for _ in range(23)]
    from gru_mem_jax.agent.reading.parallel import _opened
    from gru_mem_jax.agent.reading.reader import Look, Seen

    found = [
        Seen(Look(chunk_of(i), ""), True, False, f"{i}", p)
        for i, p in enumerate(probabilities)
    ]
    wanted = sorted(sorted(range(23), key=lambda i: -probabilities[i])[:4])
    assert [each.look.chunk.index for each in _opened(found, 4)] == wanted
    shut = [each._replace(update=False) for each in found]
    same = [each._replace(memory="") for each in found]
    assert _opened(shut, 4) == _opened(same, 4) == []


def chunk_of(index):
    from gru_mem_jax.agent.chunking import Chunk

    return Chunk(index, (1,), "x", index, index + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_passes": 0}, "max_passes must be from 1"),
        ({"scan_chunks": 0}, "scan_chunks must be at least 1"),
        ({"max_merged": 2}, "max_merged takes the chunks with the highest"),
        ({"merge_until_exit": 1}, "merge_until_exit"),
        ({"mode": "paralel"}, "mode must be one of .*parallel"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AgentConfig(**settings)


def test_completions_come_by_number():
    rec = recurrence(MANY, mode="parallel")
    generator = ScriptedGenerator(says_all, BYTES)
    requests = [rec.next_request() for _ in range(3)]
    done = {}
    for request in requests:
        generator.submit(request)
        ((_, done[request.number]),) = generator.step()
    with pytest.raises(RunError, match="open are 0, 1, 2: give its number"):
        rec.receive(done[1])
    assert rec.receive(done[1], 1).chunk == 1
    with pytest.raises(RunError, match="for request 1; open are 0, 2"):
        rec.receive(done[1], 1)


def test_an_empty_text_and_one_chunk():
    for text, turns in (("", 1), ("a=b", 2)):
        for mode in ("parallel", "reread"):
            trajectory, _ = run(follow, recurrence(text, "?a", mode=mode, max_passes=1))
            assert len(trajectory.turns) == turns
            wanted = "end_of_context" if text else "empty_context"
            assert trajectory.stop_reason == wanted
