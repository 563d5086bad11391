"""Variable tracking: find all variables that a chain of assignments gives a value."""

import random
import string

from gru_mem_jax.data.builders.placing import EvidencePosition
from gru_mem_jax.data.builders.recipe import GLUES
from gru_mem_jax.data.builders.ruler.fitting import Costs, Draft
from gru_mem_jax.data.builders.ruler.haystack import Haystack
from gru_mem_jax.data.builders.ruler.needles import hidden_in, places
from gru_mem_jax.data.builders.ruler.wording import (
    NOISE,
    Prompt,
    tracing_prompt,
    with_worked_example,
)
from gru_mem_jax.errors import InputError

HOPS = 4
# Tokens of the worked example, with its prompt.
_EXAMPLE_TOKENS = 500


def chain(names: list[str], value: str) -> list[str]:
    """The assignments by which all names get a value, with RULER's blanks."""
    first, *_ = names
    hops = [f"VAR {b} = VAR {a} " for a, b in zip(names, names[1:])]  # noqa: RUF007
    return [f"VAR {first} = {value}", *hops]


def draw_chain(rng: random.Random, letters: int) -> tuple[list[str], str]:
    """Names of variables, all different, and their value."""
    names: list[str] = []
    while len(names) <= HOPS:
        name = "".join(rng.choices(string.ascii_uppercase, k=letters))
        if name not in names:
            names.append(name)
    return names, str(rng.randrange(10_000, 99_999))


class TracingTask:
    """Drafts questions of vt: one chain of five variables in the noise.

    Args:
      costs: of texts, with the glue "lines".
      num_questions, seed, rule: as of `NeedleTask`.
    """

    glue = "lines"

    def __init__(
        self,
        costs: Costs,
        *,
        num_questions: int,
        seed: int,
        rule: EvidencePosition,
    ):
        self._seed, self._rule, self._costs = seed, rule, costs
        self._rngs = [f"{seed}/ruler/vt/{i}" for i in range(num_questions)]
        self._haystack = Haystack([NOISE], costs)
        texts = {NOISE: None}
        self._chains = []
        for name in self._rngs:
            drawn = draw_chain(random.Random(name), 5)
            self._chains.append(drawn)
            texts.update(dict.fromkeys(chain(*drawn)))
        self.texts = tuple(texts)
        self._index = {text: i for i, text in enumerate(self.texts)}
        self._example_at = self._example_places()

    def _example_places(self) -> list[int]:
        """Where the worked example's chain stands, the same in all: as RULER does.

        It has as many lines of noise as 500 tokens hold, at least one an assignment.
        """
        rng = random.Random(f"{self._seed}/ruler/vt/example")
        names, value = draw_chain(rng, 3)
        prompt = tracing_prompt(value, len(names))
        without_noise = "".join(prompt[:3]) + "\n".join(chain(names, value))
        left = _EXAMPLE_TOKENS - self._costs.of(without_noise)
        count = max(HOPS + 1, self._haystack.most(left))
        self._example_noise = count
        return sorted(rng.sample(range(count), HOPS + 1))

    def _example(self, rng: random.Random) -> tuple[str, str, str]:
        """The document of the worked example, its value and its answer."""
        names, value = draw_chain(rng, 3)
        lines = [NOISE] * self._example_noise
        for at, line in zip(reversed(self._example_at), reversed(chain(names, value))):
            lines.insert(at, line)
        return GLUES["lines"](lines), value, " ".join(names)

    def prompt(self, index: int) -> Prompt:
        """Of a question."""
        names, value = self._chains[index]
        rng = random.Random(f"{self._seed}/ruler/vt/example/{index}")
        document, worked, answer = self._example(rng)
        shown = tracing_prompt(worked, len(names))
        prompt = tracing_prompt(value, len(names))
        return with_worked_example(prompt, shown, document, f" {answer}\n\n")

    def draft(self, index: int, room: int) -> Draft:
        """A question with a document of at most `room` tokens.

        Raises:
          InputError: there is no room for a line of noise for each assignment.
        """
        names, value = self._chains[index]
        lines = chain(names, value)
        left = room - sum(map(self._costs.of, lines))
        count = self._haystack.most(left)
        if count < len(lines):
            raise InputError(
                f"the length leaves {max(0, left)} tokens for the noise, of which vt "
                f"needs {len(lines)} lines; take a longer one"
            )
        rng = random.Random(f"{self._seed}/ruler/places/{index}")
        drawn, _ = places(rng, range(count), len(lines), 0, self._rule)
        hidden = [self._index[line] for line in lines]
        return hidden_in(
            [self._index[NOISE]] * count,
            list(zip(sorted(drawn), hidden, range(len(lines)))),
            {i: i for i in range(len(lines))},
            id=str(index),
            prompt=self.prompt(index),
            answers=tuple(names),
            lengths=[len(line.rstrip()) for line in lines],
        )
