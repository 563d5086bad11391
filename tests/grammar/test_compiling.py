"""Grammars of turns: ids that can be read, and what a tokenizer is refused for."""

import dataclasses
import json

import numpy as np
import pytest

from gru_mem_jax.agent.config import AgentConfig
from gru_mem_jax.agent.parse import TAGS
from gru_mem_jax.agent.prompts import PromptBuilder, PromptConfig
from gru_mem_jax.agent.turn_form import turn_constraint, turn_forms
from gru_mem_jax.data.turns import completion_ids
from gru_mem_jax.errors import PolicyError, RunError
from gru_mem_jax.grammar.automaton import EXIT, FORCED, UPDATE, Constraint, walk
from gru_mem_jax.grammar.compiling import compile_forms, form_tokens
from gru_mem_jax.grammar.forms import Box, Choice, Free, Text
from gru_mem_jax.grammar.matching import MAX_DEPTH, Braces, Tags
from gru_mem_jax.grammar.token_texts import TokenTexts
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.random_turns import draw_constrained
from gru_mem_jax.tokenization import TextTokenizer

BYTES = ByteEncoder()
THINK = (Free("</think>", 0), Text("."))


@pytest.fixture(scope="module")
def qwen2(qwen2_tokenizer_dir):
    return TextTokenizer.from_pretrained(qwen2_tokenizer_dir)


def constraint(form, encoder=BYTES, budget=50):
    grammar = compile_forms({"it": form}, TAGS, encoder)
    return Constraint(grammar=grammar, start=grammar.starts["it"], budgets=(budget, 1))


def reply(style, thought, yes, memory, end=False):
    """A turn as training has it."""
    return ("" if style == "compact" else "\n").join(
        (
            f"<think>{thought}</think>",
            f"<check>{'yes' if yes else 'no'}</check>",
            f"<update>{memory}</update>",
            f"<next>{'end' if end else 'continue'}</next>",
        )
    )


def follows(made, text, encoder=BYTES, end=True):
    """Whether a text, one token for each byte, is one that the form allows."""
    ids = [*encoder.encode(text), *(encoder.stop_ids if end else ())]
    try:
        walk(made, ids)
    except RunError:
        return False
    return True


class TestMatching:
    @pytest.mark.parametrize(
        ("held", "text", "read"),
        [
            ("", "a < b", ("", None, "")),
            ("", "a</th", ("</th", None, "")),
            ("</th", "in", ("</thin", None, "")),
            ("</thin", "k>\n<", ("", "</think>", "\n<")),
            ("</thin", "<next", ("<next", None, "")),
            ("<", "</check>", ("", "</check>", "")),
            ("<ch", "", ("<ch", None, "")),
            ("<", " think>", ("", None, "")),
        ],
    )
    def test_tags(self, held, text, read):
        assert Tags(TAGS).read(held, text) == read

    def test_a_trimmed_text_does_what_the_text_does(self):
        """All texts of up to 3 telling pieces, after all beginnings of tags."""
        tags, follow = Tags(TAGS), "\n<check>"
        pieces = (
            "<",
            "</",
            ">",
            "think",
            "ink",
            "k>",
            "ne",
            "é",
            " ",
            "\n",
            "/update>",
        )
        texts = {
            a + b + c for a in ("", *pieces) for b in ("", *pieces) for c in pieces
        }
        begun = {tag[:i] for tag in TAGS for i in range(len(tag))}
        for text in texts:
            short = tags.trimmed(text, [follow])
            for held in begun:
                long, read = tags.read(held, text), tags.read(held, short)
                assert read.held == long.held, (held, text, short)
                assert read.closed == long.closed, (held, text, short)
                if read.closed == "</think>":
                    fits = follow.startswith(long.rest)
                    assert follow.startswith(read.rest) == fits, (held, text, short)
                    assert not fits or read.rest == long.rest

    def test_braces(self):
        braces = Braces()
        assert braces.read("", "a{b") == ("{", None, "")
        assert braces.read("{", "}.") == ("", None, "")
        assert braces.read("", "}.") == ("", "}", ".")
        assert braces.read("{" * MAX_DEPTH, "{}") is None
        assert braces.trimmed("a b{cd}}") == ".{.}}"


class TestForms:
    def test_free_text_ends_with_its_tag(self):
        made = constraint(THINK)
        assert follows(made, "a</think>.")
        assert follows(made, "<<</thin</think>.")
        assert not follows(made, "a</think>,")
        assert not follows(made, "a<think>", end=False)
        assert not follows(made, "</update>", end=False)
        assert follows(made, "</updat", end=False)

    def test_a_spent_budget_closes(self):
        def ids_of(text, budget):
            left = iter(BYTES.encode(text))
            made = constraint(THINK, budget=budget)
            draws = draw_constrained(made, lambda _: next(left))
            return BYTES.decode([i for i, _ in draws][:-1])

        assert ids_of("ab", 2) == "ab</think>."
        assert ids_of("a</t", 4) == "a</think>."
        assert ids_of("a</u", 4) == "a</u</think>."

    def test_parts_of_one_segment_share_its_budget(self):
        """Where the first part takes all of it, the second is closed at once."""

        def text_of(text, budget):
            left = iter(BYTES.encode_control(text))
            form = (*THINK, Free("</think>", 0), Text("!"))
            made = constraint(form, budget=budget)
            ids = [i for i, _ in draw_constrained(made, lambda _: next(left))]
            assert len(ids) <= budget + form_tokens(made.grammar, made.start)
            steps = walk(made, ids)
            assert sum(step.support != FORCED for step in steps) <= budget
            return BYTES.decode(ids[:-1])

        assert text_of("a</think>bcd", 2) == "a</think>.</think>!"
        assert text_of("a</think>bcd", 3) == "a</think>.b</think>!"
        assert text_of("ab", 2) == "ab</think>.</think>!"

    def test_a_box_is_closed_by_force(self):
        left = iter(BYTES.encode("a{{b"))
        made = constraint((Text("["), Box(0)), budget=4)
        draws = draw_constrained(made, lambda _: next(left))
        assert BYTES.decode([i for i, _ in draws][:-1]) == "[a{{b}}}"
        assert follows(made, "[a}")
        assert not follows(made, "[a}}")
        deep = constraint((Box(0),))
        assert follows(deep, "{" * MAX_DEPTH, end=False)
        assert not follows(deep, "{" * (MAX_DEPTH + 1), end=False)

    def test_a_choice_is_made_where_the_ids_part(self):
        end = (Text("."),)
        made = constraint((Text("<"), Choice(EXIT, ("abc", "abd"), (end, end))))
        steps = walk(made, [*BYTES.encode("<abc."), *BYTES.stop_ids])
        assert [step.gate for step in steps] == [-1, -1, -1, EXIT, -1, -1]
        assert [step.support >= 0 for step in steps] == [
            step.gate == EXIT for step in steps
        ]
        assert steps[3].opens
        other = walk(made, [*BYTES.encode("<abd."), *BYTES.stop_ids])
        assert not other[3].opens
        assert form_tokens(made.grammar, made.start) == 6

    def test_words_of_which_one_begins_the_other(self):
        free = (Free("</think>", 0),)
        with pytest.raises(PolicyError, match=r"'no' and 'nose'.*begin.*format free"):
            constraint((Choice(UPDATE, ("no", "nose"), (free, free)),))

    def test_equal_grammars_have_equal_digests(self):
        first = compile_forms({"it": THINK}, TAGS, ByteEncoder())
        again = compile_forms({"it": THINK}, TAGS, ByteEncoder())
        other = compile_forms({"it": THINK[:1]}, TAGS, ByteEncoder())
        assert first.digest == again.digest != other.digest
        assert first.supports[0].all()


class TestTokenizers:
    def test_what_a_free_part_never_holds(self):
        encoder = ByteEncoder()
        encoder.missing_ids = frozenset({3})
        texts = TokenTexts(encoder).texts
        never = {3, 256, 257, 258}  # no string, and control tokens other than tags
        assert {i for i, text in enumerate(texts) if text is None} == never

    def test_a_word_that_does_not_come_back(self):
        class Deaf(ByteEncoder):
            def decode(self, ids):
                return super().decode(ids).replace("yes", "Yes")

        builder = PromptBuilder(Deaf(), PromptConfig(style="compact"))
        with pytest.raises(PolicyError, match=r"'yes' does not come back.*format free"):
            turn_forms(builder)

    def test_a_tag_that_does_not_come_back(self):
        class Deaf(ByteEncoder):
            def decode(self, ids):
                return super().decode(ids).replace("</update>", "<update>")

        builder = PromptBuilder(Deaf(), PromptConfig(style="compact"))
        with pytest.raises(PolicyError, match="'</update>' does not come back"):
            turn_forms(builder)

    def test_no_anchor(self):
        class Doubled(ByteEncoder):
            def encode(self, text):
                return [i for i in super().encode(text) for _ in range(2)]

        with pytest.raises(PolicyError, match="format free"):
            TokenTexts(Doubled())

    @pytest.mark.parametrize("style", ["compact", "full"])
    def test_qwen2(self, qwen2, style):
        """The ids of a whole turn, as training has them, with their merged tokens."""
        builder = PromptBuilder(qwen2, PromptConfig(style=style))
        config = AgentConfig(prompt=builder.config, format="constrained")
        made = turn_constraint(builder, config, "gated")
        for yes in (True, False):
            for end in (True, False):
                memory = " in Oslo" if yes else ""
                text = reply(style, " It says where.", yes, memory, end)
                steps = walk(made, completion_ids(builder, text))
                gates = [(s.gate, s.opens) for s in steps if s.gate >= 0]
                assert gates == [(UPDATE, yes), (EXIT, end)]
                free = [s for s in steps if s.support != FORCED and s.gate < 0]
                # The tags are three tokens each; ">" takes the next sign along. The one
                # before a free part is drawn: with a "/" the part would be empty.
                texts = [" It says where.</think>", " in Oslo</update>"][: 1 + yes]
                assert len(free) == sum(1 + len(qwen2.encode(t)) for t in texts)
        assert len(made.grammar.supports) < 40

    @pytest.mark.parametrize("style", ["compact", "full"])
    def test_empty_parts_are_said_as_training_says_them(self, qwen2, style):
        """Their tags share a token ("></"), which is no part of either alone."""
        builder = PromptBuilder(qwen2, PromptConfig(style=style))
        config = AgentConfig(prompt=builder.config, format="constrained")
        made = turn_constraint(builder, config, "gated")
        for thought in ("", " So."):
            for yes, memory in ((True, ""), (True, " in Oslo"), (False, "")):
                ids = completion_ids(builder, reply(style, thought, yes, memory))
                steps = walk(made, ids)
                gates = [(s.gate, s.opens) for s in steps if s.gate >= 0]
                assert gates == [(UPDATE, yes), (EXIT, False)]
                drawn = sum(s.support != FORCED and s.gate < 0 for s in steps)
                parts = [thought + "</think>"] + [memory + "</update>"] * yes
                own = sum(
                    1 + len(qwen2.encode(part)) * (not part.startswith("<"))
                    for part in parts
                )
                assert drawn == own
                budget = dataclasses.replace(made, budgets=(1, 1))
                if not (thought or memory):  # what is passed by takes no budget
                    assert walk(budget, ids) == steps

    def test_without_merged_tokens_no_part_is_passed_by(self):
        grammar = constraint((Text("<think>"), *THINK)).grammar
        free = grammar.support >= 0
        assert (grammar.segment[free] == 0).all()

    def test_builders_share_a_grammar(self):
        encoder = ByteEncoder()
        style = PromptConfig(style="compact")
        first = turn_forms(PromptBuilder(encoder, style))
        assert turn_forms(PromptBuilder(encoder, style)) is first
        full = turn_forms(PromptBuilder(encoder, PromptConfig()))
        assert full.grammar.digest != first.grammar.digest
        again = turn_forms(PromptBuilder(ByteEncoder(), style))
        assert again.grammar.digest == first.grammar.digest
        assert np.array_equal(again.grammar.next_state, first.grammar.next_state)
        assert json.dumps(dict(first.grammar.starts))
