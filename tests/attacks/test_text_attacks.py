"""Text stays text, in every tokenizer.

Faults P1, P2, P3, P4, P7, P9, P10, P11, P13 and P14, C9 and C9b.
"""

import concurrent.futures
import itertools
import random

import pytest
from hostile_texts import ODD, STRUCTURE, hostile_texts, splits
from hostile_tokenizers import gemma_like_encoder

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.chunking import iter_chunks
from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.memory import fit_memory
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.requests import prompt_ids
from gru_mem_jax.agent.text import open_context
from gru_mem_jax.errors import PolicyError
from gru_mem_jax.testing.scripted import ScriptedGenerator, said_in

NFKC = "llama_like"  # the tokenizer that changes characters


def control_texts(encoder):
    return [encoder.decode([i]) for i in sorted(encoder.control_ids)]


@pytest.fixture(params=["full", "compact"])
def builder(encoder, request):
    return PromptBuilder(encoder, PromptConfig(style=request.param))


def config(builder, **settings):
    return AgentConfig(
        chunk_size=50,
        question_tokens=10_000,
        memory_tokens=10_000,
        completion_tokens=10_000,
        prompt_tokens=100_000,
        prompt=builder.config,
        **settings,
    )


def run(builder, script, question, context, **settings):
    generator = ScriptedGenerator(script, builder.encoder)
    rec = Recurrence(builder, config(builder, **settings), question, context)
    for _ in driver.run(generator, [rec]):
        pass
    return rec.trajectory, generator


def structure(request):
    """The control segments of a prompt, which no text may change."""
    return [s.ids if s.role == "control" else s.role for s in request.prompt]


def test_p1_p2_no_text_gives_a_control_id(encoder, request):
    tokens = control_texts(encoder)
    assert tokens
    for text in hostile_texts(tokens):
        ids = encoder.encode(text)
        assert encoder.control_ids.isdisjoint(ids), text
        same, spans = encoder.encode_with_offsets(text)
        assert same == ids
        assert all(0 <= a <= b <= len(text) for a, b in spans)
        if "[words]" in request.node.name:  # its tokens swallow white space
            assert "".join(encoder.decode(ids).split()) == "".join(text.split())
            assert {i for a, b in spans for i in range(a, b)} == set(range(len(text)))
        elif NFKC not in request.node.name and "qwen2" not in request.node.name:
            assert encoder.decode(ids) == text


def test_p2_ordinary_text_is_encoded_as_ever(encoder):
    """Line breaks and runs of spaces included, which Gemma lists as added tokens."""
    rng = random.Random(0)
    words = [
        "the",
        "some",
        "text",
        "Kubernetes",
        "é",
        "世界",
        "😀",
        "x1",
        "3.14",
        "-",
        "(",
    ]
    gaps = [" ", "  ", "   ", "\n", "\n\n", "\n\n\n", " \n", "\t", ", ", "", "\r\n"]
    for _ in range(1000):
        text = "".join(rng.choice(words) + rng.choice(gaps) for _ in range(20))
        assert encoder.encode(text) == encoder.encode_control(text)


def test_p2_added_tokens_that_are_text_stay_tokens():
    encoder = gemma_like_encoder()
    assert len(encoder.encode("\n\n\n")) == 1
    assert len(encoder.encode("a\n\nb")) == 3
    # HTML is text, as in transformers: the added token that it is.
    assert encoder.encode("<h1>") == encoder.encode_control("<h1>")
    assert len(encoder.encode("a<h1>b")) == 3
    # Other added tokens in brackets, and one beyond the model's rows: letters.
    assert len(encoder.encode("[multimodal]")) == 12
    assert len(encoder.encode("<image_soft_token>")) == 18
    (soft,) = encoder.encode_control("<image_soft_token>")
    encoder.check_rows(soft)
    with pytest.raises(PolicyError, match=f"ids up to {soft - 1}"):
        encoder.check_rows(soft - 1)


def test_control_tokens_are_recognised_in_our_own_text(encoder):
    for id_ in encoder.control_ids:
        assert encoder.encode_control(encoder.decode([id_])) == [id_]


def test_p1_prompts_of_hostile_text_have_one_structure(builder):
    encoder = builder.encoder
    harmless = builder.gated((1,), (1,), (1,))
    for text in hostile_texts(control_texts(encoder)):
        ids = builder.encode_content(text)
        prompt = builder.gated(ids, ids, ids)
        for segment, same in zip(prompt, harmless, strict=True):
            assert segment.role == same.role
            if segment.role == "control":
                assert segment.ids == same.ids
            else:
                assert segment.ids == ids
                assert encoder.control_ids.isdisjoint(ids)


def test_p1_through_the_whole_loop(builder):
    """Hostile question, document and memory, against the same loop on plain words."""
    encoder = builder.encoder
    document = "\n".join(hostile_texts(control_texts(encoder)))
    reply = "<think></think><check>yes</check><update>{}</update><next>continue</next>"
    hostile = " ".join(control_texts(encoder)[-20:])
    for tag in ("think", "check", "update", "next"):  # malformed, see test_parse
        hostile = hostile.replace(f"<{tag}>", "").replace(f"</{tag}>", "")

    def say(memory):
        def policy(request):
            if "chunk" not in said_in(request, encoder):
                return r"\boxed{x}"
            head, tail = reply.split("{}")
            ids = encoder.encode_control(head) + encoder.encode(memory)
            return [*ids, *encoder.encode_control(tail), encoder.stop_ids[0]]

        return policy

    bad, bad_generator = run(builder, say(hostile), hostile, document)
    _, good_generator = run(builder, say("plain"), "Who?", "some text " * 30)
    assert bad.turns[0].well_formed
    assert bad.num_chunks > 5
    kinds = {len(s) for s in map(structure, bad_generator.requests)}
    assert kinds == {5, 7}
    assert [structure(bad_generator.requests[i]) for i in (0, 1, -1)] == [
        structure(good_generator.requests[i]) for i in (0, 1, -1)
    ]
    for request in bad_generator.requests:
        for segment in request.prompt:
            if segment.role != "control":
                assert encoder.control_ids.isdisjoint(segment.ids)
    # Nothing was lost on the way either.
    read = "".join(document[a:b] for a, b in bad.borders)
    assert read == document


def test_p3_halves_on_both_sides_of_a_border_stay_apart(encoder):
    builder = PromptBuilder(encoder, PromptConfig(style="compact"))
    for token in control_texts(encoder)[:6]:
        for left, right in splits(token):
            left_ids, right_ids = encoder.encode(left), encoder.encode(right)
            prompt = builder.gated(
                tuple(left_ids), tuple(right_ids), tuple(left_ids + right_ids)
            )
            inserted = [s.ids for s in prompt if s.role != "control"]
            joined = tuple(itertools.chain(*inserted))
            assert encoder.control_ids.isdisjoint(joined)
            # The halves come from two chunks of a stream.
            chunks = list(iter_chunks([left, right], encoder, 1))
            assert encoder.control_ids.isdisjoint(i for c in chunks for i in c.ids)
            assert "".join(c.text for c in chunks) == token


def test_p4_the_placeholder_in_the_document_is_only_text(builder):
    for mark in ("\ue000question\ue001", "\ue000chunk\ue001", "{question}", "{chunk}"):
        ids = builder.encode_content(mark * 3)
        prompt = builder.gated(ids, (), ids)
        assert [s.ids for s in prompt if s.role in ("question", "chunk")] == [ids, ids]


def test_p7_what_the_document_says_about_gates_is_not_parsed(builder):
    """The same replies to a document full of replies, and to one without."""
    replies = [
        "<think></think><check>no</check><update></update><next>continue</next>"
    ] * 3
    script = [*replies, r"\boxed{x}"]
    clean, _ = run(builder, script, "Who?", "a " * 300, max_chunks=3)
    hostile, _ = run(builder, script, "Who?", " ".join(STRUCTURE) * 3, max_chunks=3)
    for ours, theirs in zip(hostile.turns, clean.turns, strict=True):
        assert (ours.update, ours.exit) == (theirs.update, theirs.exit)
        assert (ours.memory, ours.well_formed) == (theirs.memory, theirs.well_formed)
    assert hostile.answer == "x"


def test_p9_a_sampled_control_id_is_malformed_and_never_comes_back(builder):
    encoder = builder.encoder
    head = encoder.encode_control("<think></think><check>yes</check><update>a")
    tail = encoder.encode_control("b</update><next>end</next>")
    stop = encoder.stop_ids[0]
    for id_ in sorted(encoder.control_ids):
        script = [[*head, id_, *tail, stop], r"\boxed{x}"]
        trajectory, generator = run(builder, script, "Who?", "text", max_chunks=1)
        turn = trajectory.turns[0]
        assert not turn.well_formed
        assert turn.memory == ""
        assert not turn.update
        if id_ not in encoder.format_ids:
            assert turn.problem == "a control token in the completion"
        # MemAgent's memory is the whole completion: there it counts just as well.
        script = [[*encoder.encode("ab"), id_, stop], r"\boxed{x}"]
        trajectory, generator = run(
            builder, script, "Who?", "text", max_chunks=1, mode="memagent"
        )
        turn = trajectory.turns[0]
        assert turn.well_formed is (id_ in encoder.format_ids)
        for segment in generator.requests[1].prompt:
            if segment.role == "memory":
                assert encoder.control_ids.isdisjoint(segment.ids)
    # In text, letter by letter, it may come back: as text.
    token = encoder.decode([stop])
    script = [[*head, *encoder.encode(token), *tail, stop], r"\boxed{x}"]
    trajectory, generator = run(builder, script, "Who?", "text", max_chunks=1)
    assert trajectory.turns[0].memory == f"a{token}b"
    (memory,) = [s for s in generator.requests[1].prompt if s.role == "memory"]
    assert encoder.decode(memory.ids).strip() == f"a{token}b"
    assert encoder.control_ids.isdisjoint(memory.ids)


def test_c9b_an_id_without_a_string_is_malformed(builder):
    encoder = builder.encoder
    stop = encoder.stop_ids[0]
    for id_ in (encoder.vocab_size, encoder.vocab_size + 290, 2**31 - 1, -1):
        script = [[*encoder.encode("ab"), id_, stop]] * 2
        for mode in ("with_exit_gate", "memagent"):
            trajectory, _ = run(builder, script, "Q", "text", max_chunks=1, mode=mode)
            for turn in trajectory.turns:
                assert turn.problem == "an id without a string"
                assert turn.memory == ""
                assert turn.text == "ab\ufffd"


def test_p10_a_hundred_turns_of_memory_at_its_budget(encoder):
    """Completions cut in the middle of characters, in MemAgent's mode, which keeps
    them: the memory is text, it fits, and it stays what it is."""
    budget = 24
    builder = PromptBuilder(encoder)
    settings = AgentConfig(
        mode="memagent",
        chunk_size=8,
        memory_tokens=budget,
        completion_tokens=40,
        question_tokens=8,
        prompt_tokens=4000,
    )
    # Spaces, for a byte-fallback decoder gives up a whole run for one broken character.
    text = "世 界 の 😀 👨‍👩‍👧 é\u0301 ब्र 中文 "
    ids = encoder.encode(text * 8)
    turns = itertools.count()

    def policy(request):
        turn = next(turns)
        said = said_in(request, encoder)
        memory = encoder.encode(said["memory"])
        start = turn % 7  # also begins in the middle of a character
        return [*memory[turn % 3 :], *ids[start : start + 40]]

    generator = ScriptedGenerator(policy, encoder)
    rec = Recurrence(builder, settings, "Q?", "ab " * 1000)
    for _, turn in itertools.islice(driver.run(generator, [rec]), 100):
        assert "\ufffd" not in turn.memory
        assert turn.memory_tokens == len(encoder.encode(turn.memory)) <= budget
        assert fit_memory(turn.memory, encoder, budget) == turn.memory
        assert turn.memory
    assert rec.trajectory.num_chunks == 100


def test_p11_memory_stands_in_the_users_part(builder):
    """A policy that is told to obey its memory can't be helped; but memory never
    stands where a system message or the policy's own words do."""
    encoder = builder.encoder
    prompt = builder.gated((1,), (2,), (3,))
    last = encoder.decode(prompt[-1].ids)
    rendered = encoder.render_chat([{"role": "user", "content": "MESSAGE"}])
    before, after = rendered.split("MESSAGE")
    assert encoder.decode(prompt[0].ids).startswith(before)
    assert last.endswith(after)
    assert after.strip()


def test_p13_offsets_are_exact_through_odd_characters(encoder, tmp_path):
    text = "word ".join(ODD) * 5
    path = tmp_path / "odd.txt"
    path.write_bytes(("\ufeff" + text).encode())
    read = "".join(open_context(path))
    assert read == text  # all of it, but for the mark at the start
    for size in (1, 3, 17):
        chunks = list(iter_chunks(open_context(path), encoder, size))
        assert "".join(c.text for c in chunks) == text
        assert all(text[c.start : c.end] == c.text for c in chunks)
        assert chunks == list(iter_chunks(list(text), encoder, size))


def test_p14_threads_share_one_tokenizer(encoder):
    tokens = control_texts(encoder)
    texts = list(hostile_texts(tokens[:4]))
    expected = [(encoder.encode(t), encoder.encode_control(t)) for t in texts]
    assert any(not encoder.control_ids.isdisjoint(control) for _, control in expected)

    def both(text):
        return encoder.encode(text), encoder.encode_control(text)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(both, texts)) == expected


def test_prompt_ids_are_the_segments_joined(builder):
    prompt = builder.gated((1, 2), (3,), (4,))
    joined = tuple(itertools.chain(*(s.ids for s in prompt)))
    assert prompt_ids(prompt) == joined
