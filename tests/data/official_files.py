"""Files in the form of HotpotQA, 2WikiMultihopQA, MuSiQue and SQuAD, made of words."""

import json
import random


def prose(rng, sentences=3):
    """Sentences of some length, with letters that have several bytes."""
    words = ["rain", "came", "östlich", "of", "the", "Ωmega", "river", "日本", "and"]
    texts = (
        " ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in " " * sentences
    )
    return [f"{' ' if i else ''}{text.capitalize()}." for i, text in enumerate(texts)]


def hotpotqa(number, **changes):
    """A bridge question: A names B, and the answer is in B alone. Six paragraphs."""
    rng = random.Random(number)
    context = [[f"D{number} {i}", prose(rng)] for i in range(4)]
    context += [
        [f"A{number}", [*prose(rng, 1), f" It is near Bridge {number}."]],
        [f"Bridge {number}", [f"It was built in year{number}.", *prose(rng, 1)]],
    ]
    rng.shuffle(context)
    record = {
        "_id": f"h{number}",
        "question": f"When was what is near A{number} built?",
        "answer": f"year{number}",
        "supporting_facts": [[f"A{number}", 1], [f"Bridge {number}", 0]],
        "context": context,
        "type": "bridge",
        "level": "hard",
    }
    return record | changes


def two_wiki(number, **changes):
    """As `hotpotqa`, with the triples that it follows."""
    record = hotpotqa(number) | {
        "type": "compositional",
        "evidences": [
            [f"A{number}", "near", f"Bridge {number}"],
            [f"Bridge {number}", "built", f"year{number}"],
        ],
        "answer_id": f"Q{number}",
    }
    return record | changes


def musique(number, **changes):
    """Two steps in six paragraphs."""
    rng = random.Random(number)
    texts = [(f"D{number} {i}", "".join(prose(rng)), False) for i in range(4)]
    texts += [
        (f"A{number}", f"A{number} is near Bridge {number}.", True),
        (f"B{number}", f"Bridge {number} was built in year{number}.", True),
    ]
    rng.shuffle(texts)
    paragraphs = [
        {"idx": i, "title": title, "paragraph_text": text, "is_supporting": supports}
        for i, (title, text, supports) in enumerate(texts)
    ]
    index = {title: i for i, (title, _, _) in enumerate(texts)}
    steps = [(f"What is near A{number}?", "A"), ("When was #1 built?", "B")]
    record = {
        "id": f"2hop__{number}",
        "question": f"When was what is near A{number} built?",
        "answer": f"year{number}",
        "answer_aliases": [f"the {number}th"],
        "answerable": True,
        "paragraphs": paragraphs,
        "question_decomposition": [
            {
                "id": i,
                "question": question,
                "answer": "",
                "paragraph_support_idx": index[f"{letter}{number}"],
            }
            for i, (question, letter) in enumerate(steps)
        ],
    }
    return record | changes


def squad(number):
    """An article of five paragraphs, each with a question."""
    rng = random.Random(number)
    paragraphs = []
    for i in range(5):
        text = "".join([*prose(rng, 2), f" It was built in year{number}{i}."])
        answer = f"year{number}{i}"
        answers = [{"text": answer, "answer_start": text.index(answer)}]
        qa = {"id": f"s{number}{i}", "question": f"When, {i}?", "answers": answers}
        paragraphs.append({"context": text, "qas": [qa]})
    return {"title": f"Article {number}", "paragraphs": paragraphs}


def write(path, form, numbers):
    """Writes records of a form into a file; its name as text."""
    records = [form(number) for number in numbers]
    if form is musique:
        text = "".join(f"{json.dumps(record)}\n" for record in records)
    elif form is squad:
        text = json.dumps({"version": "v2.0", "data": records})
    else:
        text = json.dumps(records)
    path.write_text(text, encoding="utf-8")
    return str(path)
