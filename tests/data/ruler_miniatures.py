"""Made-up records of the form of RULER's files, by task: MADE_UP."""

from gru_mem_jax.data.builders.ruler.wording import NOISE

FOUR = [
    f"One of the special magic numbers for {key} is: {value}."
    for key, value in zip(("a-b", "c-d", "e-f", "g-h"), range(1000001, 1000005))
]
# Sentences and needles in turn, joined by blanks: depths 0, 50, 50 and 100 percent.
TURNS = ["", FOUR[0], "Plums are blue. Figs are green.", FOUR[1], "", FOUR[2]]
TURNS += ["Kiwis are brown. So it", FOUR[3], ""]
MADE_UP = {
    "niah_single_1": {
        "input": "A special magic number is hidden within the following text. Make "
        "sure to memorize it. I will quiz you about the number afterwards.\n"
        f"{NOISE}\nOne of the special magic numbers for red-fig is: 1234567.\n{NOISE}\n"
        "What is the special magic number for red-fig mentioned in the provided text?",
        "outputs": ["1234567"],
        "answer_prefix": " The special magic number for red-fig mentioned in the "
        "provided text is",
    },
    "niah_multiquery": {
        "input": "Some special magic numbers are hidden within the following text. "
        "Make sure to memorize it. I will quiz you about the numbers afterwards.\n"
        + " ".join(TURNS)
        + "\nWhat are all the special magic numbers for c-d, g-h, a-b, and e-f "
        "mentioned in the provided text?",
        "outputs": ["1000002", "1000004", "1000001", "1000003"],
        "answer_prefix": " The special magic numbers for c-d, g-h, a-b, and e-f "
        "mentioned in the provided text are",
    },
}

TRACK = (
    "Memorize and track the chain(s) of variable assignment hidden in the following "
    "text.\n\n{}\nQuestion: Find all variables that are assigned the value {} in the "
    "text above."
)
TRACED = (
    " Answer: According to the chain(s) of variable assignment in the text above, 5 "
    "variables are assigned the value {}, they are: "
)
# Each assignment but the first ends with a blank.
CHAIN = "VAR {0} = {5}\n{6}\nVAR {1} = VAR {0} \nVAR {2} = VAR {1} \n{6}\n"
CHAIN += "VAR {3} = VAR {2} \nVAR {4} = VAR {3} \n{6}\n{6}\n{6}"
THREE = ["ABC", "DEF", "GHI", "JKL", "MNO"]
FIVE = ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY"]
MADE_UP["vt"] = {
    "input": TRACK.format(CHAIN.format(*THREE, 22222, NOISE), 22222)
    + TRACED.format(22222)
    + " ABC DEF GHI JKL MNO\n\n"
    + TRACK.format(CHAIN.format(*FIVE, 54321, NOISE), 54321),
    "outputs": FIVE,
    "answer_prefix": TRACED.format(54321),
}
LIST = (
    "Below is a numbered list of words. In these words, some appear more often than "
    "others. Memorize the ones that appear most often.\n{}\nQuestion: What are the 10 "
    "most common words in the above list?"
)
TOP = " Answer: The top 10 words that appear most often in the list are:"
LETTERS = [chr(97 + i) for i in range(10)]


def numbered(words):
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))


MADE_UP["cwe"] = {
    "input": LIST.format(numbered(LETTERS * 10 + [f"o{i % 30}" for i in range(90)]))
    + f"{TOP} {numbered(LETTERS)}\n"
    + LIST.format(numbered(["x", "y"] + LETTERS[::-1] * 30 + ["x", "y"] * 2)),
    "outputs": LETTERS,
    "answer_prefix": TOP,
}
MADE_UP["fwe"] = {
    "input": "Read the following coded text and track the frequency of each coded "
    "word. Find the three most frequently appeared coded words. "
    + " ".join(["..."] * 20 + ["cccccc"] * 4 + ["bbbbbb"] * 9 + ["..."] * 16)
    + " aaaaaa dddddd aaaaaa\nQuestion: Do not provide any explanation. Please ignore "
    "the dots '....'. What are the three most frequently appeared words in the above "
    "coded text?",
    "outputs": ["bbbbbb", "cccccc", "aaaaaa"],
    "answer_prefix": " Answer: According to the coded text above, the three most "
    "frequently appeared words are:",
}
MADE_UP["fwe"]["input"] = MADE_UP["fwe"]["input"].replace(" dddddd", " dddddd ffffff")
GIVEN = (
    "Answer the question based on the given documents. Only give me the answer and do "
    "not output any other words."
)
MADE_UP["qa_2"] = {
    "input": f"{GIVEN}\n\nThe following are given documents.\n\nDocument 1:\nFig\nFigs "
    f"are red.\n\nDocument 2:\nPlum\nA plum.\n\n{GIVEN}\n\nQuestion: What is red? ",
    "outputs": ["figs", "the figs", "figs"],
    "answer_prefix": " Answer:",
}
