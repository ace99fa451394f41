"""Lessons in sentences that mean nothing: quoting a memory has to work for words and turns of phrase that nobody has met.

memdial says a few hundred things in a few ways; people say anything. A line here is a person, a verb and a string of made-up words, a
question names the person and some of those words in another form, and the answer is what the line goes on with, or its date. This is
the skill without the language: to see which line shares most words with a question, and to copy.
"""

import random
from dataclasses import dataclass

from mr1jax.data.memdial.lessons import AnswerLesson, Line, ManagerLesson, Quote, decide
from mr1jax.data.memdial.lexicon import draw_value, render_date, syllable
from mr1jax.data.memdial.world import NO_ANSWER

_SMALL = "the a in to with and of for her his at on about from that".split()
_STOPS = ("and", "with")  # an answer ends before them
_SMALL_SHARE, _COMMON_SHARE = 0.35, 0.3  # of the words of a sentence: those of _SMALL, and those that other lines of the lesson have too
_TENSES = ("{}ed", "{}ed", "{}s", "is {}ing", "has {}ed", "was {}ing", "{}")
_WHAT = (
    "What did {who} {words}?",
    "What does {who} {words}?",
    "What is {who} {words}?",
    "Where did {who} {words}?",
    "Who did {who} {words}?",
    "Which {words} does {who} have?",
    "What {words} did {who} mention?",
    "What is {who}'s {words}?",
    "How did {who} {words}?",
)
_WHEN = ("When did {who} {words}?", "When was {who} {words}?", "On which day did {who} {words}?")
_WHEN_SHARE, _ABSENT_SHARE = 0.3, 0.12  # of the questions
_FEWEST_WORDS, _MOST_WORDS = 2, 9  # after the verb
_LONGEST_ANSWER = 6  # words
_ALIKE_SHARE = 0.4  # of the Manager's lessons: a memory says nearly what the fact says
_HABITS = {"add": 0.95, "noop": 0.05}  # of the Manager
_HABITS_IF_ALIKE = {"add": 0.55, "update": 0.25, "replace": 0.15, "delete": 0.05}


@dataclass(frozen=True)
class _Sentence:
    """stems: of the words after the person, as a question has them, "" where it would not name them; spelt: as they stand."""

    who: str
    stems: tuple[str, ...]
    spelt: tuple[str, ...]
    date: str

    @property
    def text(self) -> str:
        return f"{self.who} {' '.join(self.spelt)}"

    @property
    def line(self) -> Line:
        return self.text, self.date


class _Speech:
    """What one lesson is made of: two people, and words that several of its lines share."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self.people = tuple(draw_value("person", "train", rng) for _ in range(2))
        self._common = [self.word() for _ in range(6)]
        self._stop = rng.choice(("", "."))

    def word(self) -> str:
        return "".join(syllable(self._rng) for _ in range(self._rng.choice((1, 2, 2))))

    def sentence(self) -> _Sentence:
        """A person, a verb in some tense, and two to nine words, the last of them one of meaning."""
        rng = self._rng
        verb = rng.choice(self._common) if rng.random() < _COMMON_SHARE else self.word()
        stems, spelt = [verb], [rng.choice(_TENSES).format(verb)]
        for _ in range(rng.randint(_FEWEST_WORDS, _MOST_WORDS)):
            if rng.random() < _SMALL_SHARE:
                stems.append("")
                spelt.append(rng.choice(_SMALL))
            else:
                stems.append(rng.choice(self._common) if rng.random() < _COMMON_SHARE else self.word())
                spelt.append(stems[-1] + rng.choice(("", "", "", "s")))
        last = self.word()
        return _Sentence(rng.choice(self.people), (*stems, last), (*spelt, last + self._stop), render_date(rng.randrange(720)))

    def much_like(self, sentence: _Sentence) -> _Sentence:
        """The same sentence with another last word and date."""
        last = self.word()
        return _Sentence(
            sentence.who, (*sentence.stems[:-1], last), (*sentence.spelt[:-1], last + self._stop), render_date(self._rng.randrange(720))
        )


def _shared(who: str, asked: set[str], sentence: _Sentence) -> int:
    """How many words of a question a sentence has, counted as a person reads them."""
    return len(asked & set(sentence.stems)) + (who == sentence.who)


def _ask(target: _Sentence, number: int, shown: list[_Sentence], rng: random.Random) -> tuple[str, tuple[Quote, ...], str] | None:
    """A question that the target alone fits best, the rest of its line as quote, and the answer; None where the draw fits another."""
    named = [place for place, stem in enumerate(target.stems[:-1]) if stem]
    last = rng.choice([place for place in named if len(target.spelt) - place - 1 <= _LONGEST_ANSWER] or named[-1:])
    before = [place for place in named if place < last]
    places = sorted([*rng.sample(before, min(len(before), rng.randrange(3))), last])
    asked = [target.stems[place] for place in places]
    rivals = [sentence for sentence in shown if sentence is not target]
    if any(_shared(target.who, {*asked}, rival) >= _shared(target.who, {*asked}, target) for rival in rivals):
        return None
    quoted = " ".join(target.spelt[last:])
    quote = Quote(quoted[quoted.index(target.stems[last]) :], number, target.date)  # "is" and "has" stand before the verb
    words = " ".join(word if rng.random() < 0.7 else f"{rng.choice(_SMALL)} {word}" for word in asked)
    if rng.random() < _WHEN_SHARE:
        return rng.choice(_WHEN).format(who=target.who, words=words), (quote,), target.date
    return rng.choice(_WHAT).format(who=target.who, words=words), (quote,), _answer(target.spelt[last + 1 :])


def _answer(rest: tuple[str, ...]) -> str:
    """What a line goes on with, to its end or to an "and" or "with": what comes then is another thing."""
    end = next((place for place, word in enumerate(rest) if place and word in _STOPS), len(rest))
    return " ".join(rest[:end]).rstrip(".")


def answer_lesson(rng: random.Random, num_shown: int, num_questions: int) -> AnswerLesson:
    """Draws a lesson of the Answer Agent: lines that mean nothing, and questions for what they go on with."""
    speech = _Speech(rng)
    shown = [speech.sentence() for _ in range(num_shown)]
    replies: list[tuple[str, tuple[Quote, ...], str]] = []
    while len(replies) < num_questions:
        number = rng.randrange(num_shown)
        if rng.random() < _ABSENT_SHARE:
            word = speech.word()
            replies.append((rng.choice(_WHAT + _WHEN).format(who=shown[number].who, words=word), (Quote(word, 0, ""),), NO_ANSWER))
        elif reply := _ask(shown[number], number + 1, shown, rng):
            replies.append(reply)
        elif rng.random() < 0.1:  # lines may be too much alike for any question
            return answer_lesson(rng, num_shown, num_questions)
    return AnswerLesson(tuple(sentence.line for sentence in shown), tuple(replies))


def manager_lesson(rng: random.Random, num_shown: int) -> ManagerLesson:
    """Draws a lesson of the Manager: a sentence arrives at others, of which one may say nearly the same; mostly it is added."""
    speech = _Speech(rng)
    fact = speech.sentence()
    shown = [speech.sentence() for _ in range(num_shown)]
    number = 1 + rng.randrange(num_shown) if rng.random() < _ALIKE_SHARE else 0
    if number:
        shown[number - 1] = speech.much_like(fact)
    odds = _HABITS_IF_ALIKE if number else _HABITS
    return decide(tuple(sentence.line for sentence in shown), fact.line, number, odds, rng)
