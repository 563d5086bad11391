"""Template variables from flags, gin and gru_mem.json, in that order of weight."""

import json

import pytest

from gru_mem_jax import evaluation
from gru_mem_jax.cli import ask
from gru_mem_jax.cli import eval as eval_command
from gru_mem_jax.cli.arguments import Parser, add_common_flags
from gru_mem_jax.cli.main import main
from gru_mem_jax.errors import InputError
from gru_mem_jax.policy.files import open_policy_dir


@pytest.fixture
def policy(tmp_path):
    told = {"prompt": {"template_variables": {"a": 1, "b": "own"}}}
    (tmp_path / "gru_mem.json").write_text(json.dumps(told))
    return tmp_path


def configured(policy, *flags, bindings=()):
    """The variables that `ask` would use."""
    parser = Parser()
    ask.add_arguments(parser)
    add_common_flags(parser)
    words = [f"--policy={policy}", "--question=q", "--context=c", *flags]
    args = parser.parse(words)
    args.gin_bindings = list(bindings)
    config, _ = ask.configure(args, open_policy_dir(policy))
    return config.prompt.template_variables


def test_the_policys_own_and_flags_over_them(policy):
    assert configured(policy) == {"a": 1, "b": "own"}
    flag = "--template_variable=enable_thinking=false"
    assert configured(policy, flag, "--template_variable", "a=None") == {
        "a": None,
        "b": "own",
        "enable_thinking": False,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("0.5", 0.5),
        ("12", 12),
        ('"12"', "12"),
        ("low effort", "low effort"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_values_are_json_or_text(policy, text, value):
    found = configured(policy, f"--template_variable=x={text}")["x"]
    assert (found, type(found)) == (value, type(value))


def test_gin_binds_a_mapping(policy):
    binding = "PromptConfig.template_variables = {'enable_thinking': False}"
    assert configured(policy, bindings=[binding]) == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("enable_thinking", "expected NAME=VALUE, such as enable_thinking=false"),
        ("=1", "expected NAME=VALUE"),
        ("a b=1", "'a b' cannot be the name of a variable"),
        ("x=[1]", "x must be a finite number, text"),
        ("messages=1", "messages is reserved"),
    ],
)
def test_what_is_refused(policy, flag, message):
    with pytest.raises(InputError, match=message):
        configured(policy, f"--template_variable={flag}")


def test_eval_takes_them_too(policy, monkeypatch):
    used = []

    def evaluate(*unused, agent, **settings):
        used.append(agent.prompt.template_variables)
        raise InputError("told")

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    flag = "--template_variable=a=2"
    assert main(["eval", f"--policy={policy}", flag, "--json=-"]) == 2
    assert used == [{"a": 2, "b": "own"}]
    assert eval_command.__doc__
