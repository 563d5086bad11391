"""Constrained turns: budgets, the loop, gates' probabilities, what is saved."""

import dataclasses
import json
import math

import pytest
from loops import BUILDER, BYTES, CONFIG, Thinking, reply, run

from gru_mem_jax.agent import driver
from gru_mem_jax.agent.config import check_budgets, replace_settings
from gru_mem_jax.agent.loop import Recurrence
from gru_mem_jax.agent.parse import parse_memory_turn
from gru_mem_jax.agent.prompts import PromptBuilder
from gru_mem_jax.agent.requests import Completion
from gru_mem_jax.agent.trajectory import trajectory_from_dict, trajectory_to_dict
from gru_mem_jax.agent.turn_form import turn_constraint, turn_forms
from gru_mem_jax.errors import InputError, PolicyError, RunError
from gru_mem_jax.grammar.automaton import walk
from gru_mem_jax.testing.byte_tokenizer import ByteEncoder
from gru_mem_jax.testing.random_turns import RandomGenerator, draw_constrained

FORMED = replace_settings(CONFIG, format="constrained")


def settings(**changes):
    return replace_settings(FORMED, **changes)


def begin(config=FORMED, context="0123456789" * 3, **kwargs):
    return Recurrence(BUILDER, config, "Who?", context, **kwargs)


def run_at_random(rec):
    generator = RandomGenerator()
    for _ in driver.run(generator, [rec]):
        pass
    return rec.trajectory, generator


class TestBudgets:
    def test_by_hand(self):
        """Bytes, compact; tags are one token each."""
        forms = turn_forms(BUILDER)
        # <think>, "/think>" after a "<" that was drawn, <check>yes</check><update>,
        # "/update>", <next>continue</next>, stop.
        assert forms.tokens["gated"] == 1 + 7 + 1 + 3 + 1 + 1 + 8 + 1 + 8 + 1 + 1
        # \boxed{ free }}}}}}}}} stop
        assert forms.tokens["answer"] == 7 + 9 + 1
        assert forms.closing == 1
        left = 200 - forms.tokens["gated"]
        gated = turn_constraint(BUILDER, FORMED, "gated")
        assert gated.budgets == (left // 4, 16 + 1)
        assert gated.start == forms.grammar.starts["gated"]
        answer = turn_constraint(BUILDER, FORMED, "answer")
        assert answer.budgets[0] == 200 - 17
        long = settings(thought_tokens=150, update_threshold=0.25)
        constraint = turn_constraint(BUILDER, long, "gated")
        assert constraint.budgets == (150, left - 150)
        assert constraint.thresholds == (0.25, None)

    def test_turns_without_a_form(self):
        assert turn_constraint(BUILDER, CONFIG, "gated") is None
        assert turn_constraint(BUILDER, settings(mode="memagent"), "memagent") is None

    @pytest.mark.parametrize("thought", [None, 20])
    def test_too_small_budgets_name_the_least(self, thought):
        form = turn_forms(BUILDER).tokens["gated"]
        least = form + (thought or 1) + 1
        small = settings(completion_tokens=least - 1, thought_tokens=thought)
        with pytest.raises(InputError, match=f"at least {least}: .* up to {form}, "):
            check_budgets(BUILDER, small)
        enough = settings(completion_tokens=least, thought_tokens=thought)
        check_budgets(BUILDER, enough)
        assert turn_constraint(BUILDER, enough, "gated").budgets == (thought or 1, 1)
        tiny = settings(completion_tokens=17, mode="memagent")
        with pytest.raises(InputError, match="answer turn needs at least 18"):
            check_budgets(BUILDER, tiny)

    def test_the_longest_turn_takes_completion_tokens(self):
        """Each budget is spent with a "<" that might begin any tag."""
        config = settings(completion_tokens=45, thought_tokens=5)
        constraint = turn_constraint(BUILDER, config, "gated")
        assert constraint.budgets == (5, 45 - turn_forms(BUILDER).tokens["gated"] - 5)
        memory = "x" * (constraint.budgets[1] - 1) + "<"
        drawn = iter(f"xxxx<y{memory}c".encode())
        draws = draw_constrained(constraint, lambda _: next(drawn))
        assert len(draws) == 45
        text = BYTES.decode([token for token, _ in draws[:-1]])
        assert text == reply(think="xxxx<", update=memory).replace("<<", "<")


class TestLoop:
    def test_a_run(self):
        trajectory, generator = run_at_random(begin(trace=True, trajectory_id=1))
        assert trajectory.well_formed
        assert trajectory.answer is not None
        *read, last = trajectory.turns
        assert {r.constraint.start for r in generator.requests[:-1]} == {
            turn_forms(BUILDER).grammar.starts["gated"]
        }
        for turn, request in zip(read, generator.requests):
            assert turn.finish_reason == "stop"
            # Of two words that are alike one is said.
            assert turn.update_probability == pytest.approx(0.5)
            assert turn.exit_probability == pytest.approx(0.5)
            steps = walk(request.constraint, turn.completion_ids)
            assert turn.supports == tuple(step.support for step in steps)
            drawn = [s >= 0 for s in turn.supports]
            assert drawn == [p < 0 for p in turn.logprobs]
        assert last.update_probability is last.exit_probability is None
        assert len(last.supports) == last.completion_tokens

    def test_free_turns_have_neither(self):
        trajectory, _ = run(
            [reply(exit_="end"), r"\boxed{a}"], begin(CONFIG, trace=True)
        )
        turn = trajectory.turns[0]
        assert turn.supports is turn.update_probability is turn.exit_probability is None
        assert "supports" not in trajectory_to_dict(trajectory)["turns"][0]

    @pytest.mark.parametrize(
        ("check", "exit_", "update", "end"),
        [("yes", "end", 0.2, 0.9), ("no", "continue", 0.8, 0.1)],
    )
    def test_probabilities_are_of_yes_and_end(self, check, exit_, update, end):
        rec = begin(context="0123456789")
        request = rec.next_request()
        said = reply(check, "m" if check == "yes" else "", exit_)
        ids = (*BYTES.encode_control(said), *BYTES.stop_ids)
        steps = walk(request.constraint, ids)
        gates = [place for place, step in enumerate(steps) if step.gate >= 0]
        logprobs = [-1.0 if step.support >= 0 else 0.0 for step in steps]
        logprobs[gates[0]], logprobs[gates[1]] = math.log(0.2), math.log(0.9)
        turn = rec.receive(
            Completion(
                ids=ids,
                logprobs=tuple(logprobs),
                sampling_logprobs=tuple(logprobs),
                finish_reason="stop",
            )
        )
        assert turn.update == (check == "yes")
        assert turn.update_probability == pytest.approx(update)
        assert turn.exit_probability == pytest.approx(end)

    def test_memagent_is_free_until_its_answer(self):
        config = settings(mode="memagent")
        script = ["a memory", "more", "all", r"\boxed{it}"]
        trajectory, generator = run(script, begin(config))
        assert [r.constraint is None for r in generator.requests] == [True] * 3 + [
            False
        ]
        assert trajectory.answer == "it"

    @pytest.mark.parametrize(
        ("said", "told"),
        [
            (
                "no format at all",
                "token 0, id 110, does not follow the grammar: the ge",
            ),
            (reply(check="no", update="m"), "does not follow the grammar"),
            (
                reply(think="t" * 190),
                "of 200 tokens has no end: the generator does not",
            ),
        ],
    )
    def test_a_generator_that_does_not_hold_to_the_form(self, said, told):
        with pytest.raises(RunError, match=told):
            run([said], begin())

    def test_cut_and_resumed(self):
        whole, _ = run_at_random(begin(trace=True, trajectory_id=1))
        for turns in range(len(whole.turns)):
            rec, generator = begin(trace=True, trajectory_id=1), RandomGenerator()
            for _ in range(turns):
                generator.submit(rec.next_request())
                rec.receive(generator.step()[0][1])
            rec.stop("interrupted")
            saved = json.loads(json.dumps(trajectory_to_dict(rec.trajectory)))
            again = begin(
                trace=True, trajectory_id=1, resume=trajectory_from_dict(saved)
            )
            resumed, _ = run_at_random(again)
            assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(
                whole, seconds=0
            )

    def test_runs_of_before(self):
        """Without the settings and fields of constrained turns."""
        rec = begin(CONFIG)
        rec.next_request()
        ids = (*BYTES.encode_control(reply()), *BYTES.stop_ids)
        zeros = (0.0,) * len(ids)
        rec.receive(
            Completion(
                ids=ids, logprobs=zeros, sampling_logprobs=zeros, finish_reason="stop"
            )
        )
        rec.stop("interrupted")
        saved = json.loads(json.dumps(trajectory_to_dict(rec.trajectory)))
        for name in ("format", "thought_tokens", "update_threshold", "exit_threshold"):
            del saved["settings"][name]
        for name in ("update_probability", "exit_probability"):
            del saved["turns"][0][name]
        resumed = begin(CONFIG, resume=trajectory_from_dict(saved))
        trajectory, _ = run([reply(exit_="end"), r"\boxed{x}"], resumed)
        assert trajectory.answer == "x"
        with pytest.raises(InputError, match=r"cannot resume: .*format"):
            begin(resume=trajectory_from_dict(saved))

    def test_format_free_drops_thresholds(self):
        config = settings(update_threshold=0.3, exit_threshold=0.6, thought_tokens=9)
        assert replace_settings(config, format="free") == CONFIG
        with pytest.raises(InputError, match="exit_threshold is of constrained turns"):
            replace_settings(config, format="free", exit_threshold=0.5)
        assert replace_settings(config, exit_threshold=None).update_threshold == 0.3


class TestTokenizer:
    @pytest.mark.parametrize("style", ["compact", "full"])
    @pytest.mark.parametrize("format_tags", [True, False])
    @pytest.mark.parametrize(
        "end",
        [
            "<think>\n",
            "<think>\nOkay, ",
            "<think>\n\n</think>\n\n",
            "<think></think><check>",
        ],
    )
    def test_what_the_template_has_opened(self, end, format_tags, style):
        encoder = Thinking(end, format_tags=format_tags)
        config = settings(
            style=style, completion_tokens=300, prompt_tokens=2500, thought_tokens=5
        )
        builder = PromptBuilder(encoder, config.prompt)
        assert builder.opened == end
        assert turn_forms(builder).thinks == ("</think>" not in end)
        ways = set()
        for number in range(8):
            rec = Recurrence(
                builder, config, "Who?", "0123456789", trajectory_id=number
            )
            trajectory, _ = run_at_random(rec)
            assert trajectory.well_formed
            turn = parse_memory_turn(trajectory.turns[0].text)
            assert turn.think.startswith("Okay") == ("Okay" in end)
            ways.add((turn.update, turn.exit))
            answer = trajectory.turns[-1].text
            assert answer.startswith(end)
            closed = "</think>" if "</think>" not in end else ""
            if not end.endswith("<check>"):
                assert answer.removeprefix(end).startswith(closed + r"\boxed{")
        assert len(ways) > 1

    def test_a_template_that_decides(self):
        end = "<think></think><check>yes</check>"
        builder = PromptBuilder(Thinking(end), CONFIG.prompt)
        with pytest.raises(
            PolicyError, match="nothing is left for the policy to check"
        ):
            check_budgets(builder, FORMED)

    def test_a_tokenizer_that_cannot(self):
        class Deaf(ByteEncoder):
            def decode(self, ids):
                return super().decode(ids).replace("yes", "Yes")

        builder = PromptBuilder(Deaf(), CONFIG.prompt)
        check_budgets(builder, CONFIG)
        with pytest.raises(PolicyError, match="'yes' does not come back"):
            Recurrence(builder, FORMED, "Who?", "text")
