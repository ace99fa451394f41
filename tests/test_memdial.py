"""memdial against a reader with a perfect memory, its splits against each other, its files against its generator."""

import collections
import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from mr1jax.config import BankConfig
from mr1jax.data import datasets, honesty
from mr1jax.data.memdial import lexicon, memdial_dataset_builder
from mr1jax.data.memdial import wordings as say
from mr1jax.data.memdial.world import CATEGORIES, NO_ANSWER, SINGLE_HOP, WorldConfig, conversations, generate
from mr1jax.data.records import ALWAYS

SPLITS = ("train", "validation", "test")
CONFIG = WorldConfig()


@pytest.fixture(scope="module")
def train():
    return list(conversations("train", 0, 600))


@pytest.fixture(scope="module")
def by_split(train):
    return {"train": train[:200], "validation": list(conversations("validation", 0, 50)), "test": list(conversations("test", 0, 100))}


# A perfect memory ---------------------------------------------------------------------------------------------------------------

NOUN = (
    "(?P<noun>dog|cat|horse|boat|band|company|street|school|cafe|club|sister|brother|friend|boss|neighbour|home|job|instrument|sport|language"
    "|favourite (?:food|drink|colour))"
)
SAID = r"(?P<person>\w+) (?:says|said(?: that)?|told us that|mentioned that)"
TOLD = [
    rf"(?:sorry, )?(?P<person>\w+)'s (?:new )?{NOUN} is (?:now |really )?(?:called |in )?(?P<value>\w+)",
    rf"(?P<person>\w+) (?:now has|has|got|told us about|mentioned|is happy with) an? (?:new )?{NOUN}"
    r"(?: called|, it is|,| by the name of) (?P<value>\w+)",
    rf"{SAID} there is an? (?:new )?{NOUN}(?: called|, it is|,) (?P<value>\w+)",
    rf"{SAID} the (?:new )?{NOUN} is (?:called |in )?(?P<value>\w+)",
    rf"(?P<person>\w+) (?:changed the {NOUN}, it|got another {NOUN.replace('noun', 'noun2')}, this one) is (?:called )?(?P<value>\w+)",
    rf"(?P<person>\w+) (?:told us about|mentioned|is happy with) the {NOUN},(?: which is)?(?: called)? (?P<value>\w+)",
    rf"(?P<person>\w+) (?:was wrong|was sorry|said sorry|said no), the {NOUN} is (?:really )?(?P<value>\w+)",
    r"(?P<person>\w+) (?:has|got|started|told us about) a (?P<noun>job) as an? (?P<value>\w+)",
    r"(?P<person>\w+) (?:has|told us about|mentioned|is happy with) a (?P<noun>home) in (?P<value>\w+)",
]
ENDED = [
    rf"(?P<person>\w+) no longer has an? {NOUN}",
    rf"(?P<person>\w+) has no {NOUN} now",
    rf"(?P<person>\w+) gave up the {NOUN}",
    rf"(?P<person>\w+)'s {NOUN} is gone",
    rf"{SAID} the {NOUN} is gone",
    rf"{SAID} there is no {NOUN} now",
]
DEEDS = "visited:visit went to:go to walked to:walk to bought:buy sold:sell repaired:repair painted:paint lost:lose found:find cooked:cook "
DEEDS += "watched:watch read:read met:meet called:call won:win"
BASE = dict(deed.split(":") for deed in re.findall(r"\w+(?: to)?:\w+(?: to)?", DEEDS))
PAST = rf"(?P<deed>{'|'.join(BASE)})"
TOLD_BY = r"(?:\w+ (?:says that|said that|told us that|mentioned to \w+ that) )?"
DONE = rf"{TOLD_BY}(?P<person>\w+)(?: and \w+)? {PAST} (?:an? |the )?(?P<value>\w+)(?: with \w+| and .*)?"

ASKED_THROUGH = [
    r"(?:What is|Can you tell me) (?P<person>\w+)'s (?P<through>\w+)'s (?P<noun>.+)\?",
    r"(?:Can you tell me|Do you know) the (?P<noun>.+) of (?P<person>\w+)'s (?P<through>.+)\?",
    r"Which (?P<noun>.+) does (?P<person>\w+)'s (?P<through>.+) have\?",
    r"(?:What does|Do you know what) (?P<person>\w+)'s (?P<through>\w+) (?:have|has) as (?P<noun>.+)\?",
]
ASKED = [
    rf".* (?P<person>\w+)'s {NOUN}(?: called| have| is| is called)?\?",
    rf".*\b(?:what|that) (?P<person>\w+) has as {NOUN}\?",
    rf"What does (?P<person>\w+) have as {NOUN}\?",
    r"Where does (?P<person>\w+) have the (?P<noun>home)\?",
    r"Where is it that (?P<person>\w+) has the (?P<noun>home)\?",
]
ANY_TENSE = rf"(?P<deed>{'|'.join([*BASE, *BASE.values()])})"
ASKED_WHEN = rf".* (?:when|When|day)(?: did| was it that| that)? (?P<person>[A-Z]\w+) {ANY_TENSE} (?:an? |the )?(?P<value>.+)\?"
ASKED_WHAT = rf".* what (?P<person>[A-Z]\w+) {PAST}\?|What (?:did|was it that|is it that) (?P<person2>[A-Z]\w+) (?!has as)(?P<deed2>.+)\?"


def match(patterns, text):
    """The named groups of the first pattern that the whole text matches, None where none does."""
    found = next((found for found in (re.fullmatch(pattern, text) for pattern in patterns) if found), None)
    groups = found and {name: text for name, text in found.groupdict().items() if text}
    return groups and {"noun": groups.get("noun2", "home")} | groups


def without_article(answer):
    return re.sub(r"^(?:an?|the) ", "", answer)


class PerfectMemory:
    """Remembers every fact that it can read, {(person, noun): value} and {(person, deed): (value, date)}, and answers from that alone."""

    def __init__(self):
        self.states, self.deeds = {}, {}

    def read(self, fact):
        if ended := match(ENDED, fact.text):
            self.states.pop((ended["person"], ended["noun"]), None)
        elif told := match(TOLD, fact.text):
            self.states[told["person"], told["noun"]] = told["value"]
        elif done := match([DONE], fact.text):
            self.deeds[done["person"], BASE[done["deed"]]] = (done["value"], fact.date)

    def answer(self, question):
        if asked := match([ASKED_WHEN], " " + question):
            value, date = self.deeds[asked["person"], BASE.get(asked["deed"], asked["deed"])]
            assert value == asked["value"]
            return date
        if asked := match([ASKED_WHAT], question):
            person, deed = (asked.get(name) or asked[name + "2"] for name in ("person", "deed"))
            return self.deeds[person, BASE.get(deed, deed)][0]
        if (asked := match(ASKED_THROUGH, question)) and asked["noun"] != "name":
            return self.states[self.states[asked["person"], asked["through"]], asked["noun"]]
        asked = match(ASKED, question)
        return self.states.get((asked["person"], asked["noun"]), NO_ANSWER)


@pytest.mark.parametrize("split", SPLITS)
def test_gold_answers_are_what_was_said(by_split, split):
    """Oracle: `PerfectMemory`, which reads sentences with its own expressions, asked every question at every time it is valid."""
    answered = collections.Counter()
    for record in by_split[split][:50]:
        memory = PerfectMemory()
        for time in range(len(record.facts) + 1):
            for question in record.questions:
                if question.asked_after <= time < question.valid_until:
                    assert memory.answer(question.question) == without_article(question.answer), (record.id, time, question)
                    answered[question.category] += 1
            if time < len(record.facts):
                memory.read(record.facts[time])
    assert set(answered) == set(CATEGORIES)


def test_no_question_has_two_answers(train):
    """Oracle: overlap of intervals, over every pair of questions of one text in 600 conversations."""
    for record in train:
        by_text = collections.defaultdict(list)
        for question in record.questions:
            by_text[question.question].append(question)
        for same in by_text.values():
            for one, other in itertools.combinations(same, 2):
                overlap = max(one.asked_after, other.asked_after) < min(one.valid_until, other.valid_until)
                assert not overlap or one.answer == other.answer, (record.id, one, other)


def test_questions_become_wrong_when_the_world_changes(train):
    """Oracle: the fact at `valid_until - 1`, the newest when a question stops: it changes, corrects or ends one of the question's facts."""
    ends = collections.Counter()
    for record in train[:300]:
        for question in record.questions:
            if question.valid_until < ALWAYS:
                last = record.facts[question.valid_until - 1]
                assert int(last.source) in question.evidence
                ends[last.kind] += 1
    assert set(ends) == {"change", "correct", "end"}


# What a conversation holds ------------------------------------------------------------------------------------------------------


def day_of(date):
    day, month, year = date.split()
    return int(year), lexicon.MONTHS.index(month), int(day)


def test_conversations_have_the_length_and_order_they_should(train):
    """Oracle: the counts of the configuration, and dates read back as (year, month, day)."""
    assert CONFIG.num_facts == 10 + 4 + 6 + 1 + 1 + 20
    for record in train:
        assert len(record.facts) == CONFIG.num_facts
        days = [day_of(fact.date) for fact in record.facts]
        assert days == sorted(days)
        assert len(set(days)) == CONFIG.num_sessions
        assert len(set(record.speakers)) == 2
        for index, fact in enumerate(record.facts):
            assert not fact.source or int(fact.source) < index
        for question in record.questions:
            assert list(question.evidence) == sorted(question.evidence)
            assert question.asked_after == (question.evidence[-1] + 1 if question.evidence else 0) < question.valid_until


def test_a_bank_is_too_small_for_all_facts_and_large_enough_for_those_that_count(train):
    """Oracle: sets. What the questions of the end rest on fits the slots of the default bank; what was said does not."""
    num_slots = BankConfig().num_slots
    needed = [len({fact for q in record.questions if q.valid_until == ALWAYS for fact in q.evidence}) for record in train]
    assert max(needed) <= num_slots < CONFIG.num_facts
    assert max(needed) > num_slots // 2


def test_every_category_and_kind_occurs(by_split):
    """Oracle: sets; the kinds are those that the module's text names."""
    for records in by_split.values():
        assert {question.category for record in records for question in record.questions} == set(CATEGORIES)
        kinds = {fact.kind for record in records for fact in record.facts}
        assert kinds == {"new", "vague", "event", "change", "refine", "correct", "end", "repeat", "chatter"}


def test_people_of_few_words_say_things_in_one_way():
    """Oracle: the templates themselves as patterns: of each set, one conversation uses as many as the configuration allows, or fewer."""

    def used(record, templates):
        shapes = [re.escape(t) for t in templates]
        patterns = [re.compile(re.sub(r"\\\{\w+\\\}", ".+", shape)) for shape in shapes]
        return sum(any(pattern.fullmatch(fact.text) for fact in record.facts) for pattern in patterns)

    chatter = ("{p} laughed about {topic}", "{p} agreed with {w} about {topic}", "{p} is {mood} today", "{p} thinks {topic} was nice")
    for seed in range(30):
        few, _ = generate(seed, "train", replace(CONFIG, num_wordings=1))
        all_of_them, _ = generate(seed, "train")
        assert used(few, chatter) <= 1
        assert len(few.facts) == len(all_of_them.facts)
    assert max(used(generate(seed, "train")[0], chatter) for seed in range(30)) > 2


def test_articles_fit_what_follows(by_split):
    """Oracle: the letter after the article, in all that is said, asked and answered."""
    texts = [fact.text for records in by_split.values() for record in records for fact in record.facts]
    asked = [question for records in by_split.values() for record in records for question in record.questions]
    texts += [text for question in asked for text in (question.question, question.answer)]
    pairs = [pair for text in texts for pair in re.findall(r"\b([Aa]n?) (\w)", text)]
    assert {article for article, _ in pairs} == {"a", "an"}
    assert all((article.lower() == "an") == (letter.lower() in "aeiou") for article, letter in pairs)


# Splits -------------------------------------------------------------------------------------------------------------------------


def templates():
    """{split: templates} of every group of wordings, those of single relations included."""
    groups = [group for group in vars(say).values() if isinstance(group, say.Wordings)]
    groups += [group for relation in say.RELATIONS for group in (relation.statement, relation.question) if group]
    return {split: {template for group in groups for template in group.of(split)} for split in SPLITS}


def template_words(split_templates):
    return {word for template in split_templates for word in re.findall(r"\w+", re.sub(r"\{\w+\}", " ", template).lower())}


def test_no_template_is_in_two_splits():
    """Oracle: sets of templates with their places unnamed: "{p} has a {n}" is "X has a X"."""
    unnamed = {split: {re.sub(r"\{\w+\}", "X", template) for template in group} for split, group in templates().items()}
    assert all(unnamed.values())
    for one, other in itertools.combinations(SPLITS, 2):
        assert not unnamed[one] & unnamed[other]


def test_wordings_are_held_out_but_words_are_not():
    """Oracle: the words of templates: a test asks in other sentences, not in other words."""
    words = {split: template_words(group) for split, group in templates().items()}
    for split in ("validation", "test"):
        assert words[split] <= words["train"]


def test_every_listed_word_is_dealt_to_one_split_and_each_split_has_enough():
    """Oracle: the deal of sets. Where a split has fewer than three words of a kind, it draws names made of syllables instead."""
    for kind, words in lexicon.COMMON.items():
        assert len(set(words)) == len(words), kind
        dealt = collections.Counter(map(lexicon.split_of, words))
        assert dealt["train"] >= 10
        assert dealt["test"] >= 5
    assert not any(lexicon.split_of(word) == "validation" for word in lexicon.COMMON["sport"])


def test_splits_share_no_name_no_answer_and_no_sentence(by_split):
    """Oracle: `check_splits`, which knows records only; and that what it counted is what there is."""
    report = honesty.check_splits(by_split)
    assert {split: row["conversations"] for split, row in report.items()} == {"train": 200, "validation": 50, "test": 100}
    for split, records in by_split.items():
        speakers = {speaker for record in records for speaker in record.speakers}
        assert report[split]["names"] > len(speakers) > 10
        assert {lexicon.split_of(speaker) for speaker in speakers} == {split}
        assert {lexicon.split_of(without_article(answer)) for answer in honesty.answers(records)} == {split}


@pytest.fixture(scope="module")
def strangers(by_split):
    """A training and a test conversation, and a training answer that is a plain word."""
    known, new = by_split["train"][0], by_split["test"][0]
    questions = [question for record in by_split["train"][:40] for question in record.questions]
    return known, new, next(q.answer for q in questions if q.category == SINGLE_HOP and q.answer.islower())


def with_sentence(record, text):
    return replace(record, facts=(replace(record.facts[0], text=text), *record.facts[1:]))


def leaks(known, new, answer):
    """{what: (what the sentence says is shared, a test conversation that leaks)}."""
    stranger, person = known.speakers[0], new.speakers[0]
    return {
        "a speaker": ("names", replace(new, speakers=(stranger, new.speakers[1]))),
        "a name inside": ("names", with_sentence(new, f"{person} thinks of {stranger}")),
        "an answer": ("answers", replace(new, questions=(replace(new.questions[0], answer=answer), *new.questions[1:]))),
        "a sentence": ("sentences", with_sentence(new, f"{stranger} wishes everyone a good day")),
        "a wording": ("sentences", with_sentence(new, f"{person} wishes everyone a good day")),
        "a wording in another order": ("sentences", with_sentence(new, f"Good day, everyone! {person} wishes the")),
    }


@pytest.mark.parametrize("what", leaks(*[generate(0, split)[0] for split in ("train", "test")], ""))
def test_a_leak_is_refused_in_one_sentence(by_split, strangers, what):
    """Oracle: the clean test split with one thing of training put in by hand."""
    named, leaking = leaks(*strangers)[what]
    with pytest.raises(ValueError, match=rf"^splits train and test share \d+ {named}, such as '.*'; draw them from different ones$"):
        honesty.check_splits({"train": by_split["train"][:40], "test": [leaking, *by_split["test"][1:10]]})


def test_no_conversation_is_drawn_twice(train, by_split):
    """Oracle: sets. Two conversations of one split share the people by chance, never the facts."""
    records = [*train, *by_split["validation"], *by_split["test"]]
    assert len({record.id for record in records}) == len(records)
    assert len({tuple(fact.text for fact in record.facts) for record in records}) == len(records)
    assert not {record.facts for record in train} & {record.facts for record in conversations("train", 1, 100)}


# Files --------------------------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_conversation_in_another_process(train):
    """Oracle: this process, whose strings have other hashes than those of one started with PYTHONHASHSEED=7."""
    script = "from mr1jax.data.memdial.world import generate; print(repr([generate(seed, 'train') for seed in range(3)]))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert other.strip() == repr([generate(seed, "train") for seed in range(3)])
    assert [generate(seed, "train")[0] for seed in range(3)] == train[:3]


def test_files_hold_what_the_generator_draws(monkeypatch, tmp_path):
    """Oracle: `conversations`, read back without TensorFlow. Smaller splits, which take no other path than the full ones."""
    counts = {"train": 5, "validation": 2, "test": 3}
    assert memdial_dataset_builder.NUM_CONVERSATIONS == {"train": 2000, "validation": 100, "test": 100}
    monkeypatch.setattr(memdial_dataset_builder, "NUM_CONVERSATIONS", counts)
    for split, count in counts.items():
        assert datasets.read_split("memdial", split, tmp_path) == list(conversations(split, 0, count))
    assert datasets.build_dataset("memdial", tmp_path).info.metadata["categories"] == {str(n): name for n, name in CATEGORIES.items()}
    assert "tensorflow" not in sys.modules
    with pytest.raises(ValueError, match="^memdial has no configuration 'small'; choose one of none$"):
        datasets.build_dataset("memdial/small", tmp_path)
