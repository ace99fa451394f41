"""Records as arrays: what was said can be read back, padding is marked, and nothing is dropped in silence."""

import dataclasses

import jax
import numpy as np
import pytest

from mr1jax.data.episodes import EpisodeShape, count_cut_facts, encode_record, stack
from mr1jax.data.records import ALWAYS, Fact, Question, Record
from mr1jax.structs import PAD

RECORD = Record(
    "r",
    ("Ottilie", "Bram"),
    (
        Fact("Ottilie keeps bees", 0, "8 April 2031"),
        Fact("Bram moved to Delft", 1, "4 May 2031"),
        Fact("Bram moved from Delft to the isle of Texel", 1, "4 May 2031"),
    ),
    (
        Question("What does Ottilie keep ?", "bees", 4, (0,), 1),
        Question("Where did Bram live in May ?", "Delft, then Texel", 1, (1, 2), 3),
        Question("Where does Bram live ?", "Delft", 4, (1,), 2, valid_until=3),
        Question("Does Bram like Zoë ?", "não", 3, (), 3),
    ),
)
SHORT = Record("s", ("A", "B"), (Fact("B is here", 1, "1 May 2030"),), (Question("Who ?", "B", 4, (0,), 1),))


class WordTokenizer:
    """One token a word, numbered as they come."""

    pad_id, eos_id, vocab_size = PAD, 1, 1000

    def __init__(self):
        self.words = ["", "", ""]

    def encode(self, text):
        self.words += [word for word in dict.fromkeys(text.split()) if word not in self.words]
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)

    def token_bytes(self, token):
        return self.words[token].encode()


@pytest.fixture
def tokenizer():
    return WordTokenizer()


def read(tokenizer, rows, lengths):
    return [tokenizer.decode(row[:length]) for row, length in zip(rows, lengths, strict=True)]


def test_everything_can_be_read_back_from_a_shape_that_is_larger(tokenizer):
    """Oracle: the record's own words, decoded; empty rows, PAD and length 0 beyond them."""
    shape = EpisodeShape(num_facts=5, slot_width=10, num_dates=3, date_width=4, num_questions=6, question_width=8, answer_bytes=20)
    conversation = encode_record(RECORD, tokenizer, shape)
    assert read(tokenizer, conversation.fact_tokens, conversation.fact_length) == [fact.text for fact in RECORD.facts] + ["", ""]
    assert read(tokenizer, conversation.date_tokens, conversation.date_length) == ["8 April 2031", "4 May 2031", ""]
    questions = [question.question for question in RECORD.questions]
    assert read(tokenizer, conversation.question_tokens, conversation.question_length) == questions + ["", ""]
    answers = [bytes(row[:length]).decode() for row, length in zip(conversation.answer_bytes, conversation.answer_length, strict=True)]
    assert answers == ["bees", "Delft, then Texel", "Delft", "não", "", ""]
    assert conversation.fact_speaker.tolist() == [0, 1, 1, 0, 0]
    assert conversation.fact_time.tolist() == [0, 1, 1, 0, 0]
    assert conversation.category.tolist() == [4, 1, 4, 3, 0, 0]
    assert conversation.asked_after.tolist() == [1, 3, 2, 3, 0, 0]
    assert conversation.valid_until.tolist() == [ALWAYS, ALWAYS, 3, ALWAYS, 0, 0]
    for rows, lengths in (
        (conversation.fact_tokens, conversation.fact_length),
        (conversation.date_tokens, conversation.date_length),
        (conversation.question_tokens, conversation.question_length),
    ):
        assert np.array_equal(rows == PAD, np.arange(rows.shape[1])[None, :] >= lengths[:, None])


def test_evidence_marks_facts(tokenizer):
    """Oracle: by hand, questions by facts, with one empty row and one empty column."""
    shape = dataclasses.replace(EpisodeShape.fit([RECORD], tokenizer), num_facts=4, num_questions=5)
    assert encode_record(RECORD, tokenizer, shape).evidence.astype(int).tolist() == [
        [1, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_types_and_shapes_are_those_of_the_conversation(tokenizer):
    """Oracle: the docstring of `structs.Conversation`, with all dimensions different."""
    shape = EpisodeShape(num_facts=5, slot_width=10, num_dates=3, date_width=4, num_questions=6, question_width=8, answer_bytes=20)
    conversation = encode_record(RECORD, tokenizer, shape)
    expected = {
        "fact_tokens": ((5, 10), np.int32),
        "fact_length": ((5,), np.int32),
        "fact_speaker": ((5,), np.int32),
        "fact_time": ((5,), np.int32),
        "date_tokens": ((3, 4), np.int32),
        "date_length": ((3,), np.int32),
        "question_tokens": ((6, 8), np.int32),
        "question_length": ((6,), np.int32),
        "answer_bytes": ((6, 20), np.uint8),
        "answer_length": ((6,), np.int32),
        "evidence": ((6, 5), np.bool_),
        "category": ((6,), np.int32),
        "asked_after": ((6,), np.int32),
        "valid_until": ((6,), np.int32),
    }
    assert conversation.question_embedding is None  # made from whole conversations, where an encoder is asked for
    given = {name: array for name, array in vars(conversation).items() if array is not None}
    assert {name: (array.shape, array.dtype.type) for name, array in given.items()} == expected


def test_fit_is_the_smallest_shape_that_holds_all(tokenizer):
    """Oracle: by hand; and one less of anything but the slot, which cuts, is refused."""
    shape = EpisodeShape.fit([SHORT, RECORD], tokenizer)
    assert shape == EpisodeShape(num_facts=3, slot_width=9, num_dates=2, date_width=3, num_questions=4, question_width=7, answer_bytes=17)
    encode_record(RECORD, tokenizer, shape)
    for field in ("num_facts", "num_dates", "date_width", "num_questions", "question_width", "answer_bytes"):
        smaller = dataclasses.replace(shape, **{field: getattr(shape, field) - 1})
        with pytest.raises(ValueError, match="EpisodeShape.fit"):
            encode_record(RECORD, tokenizer, smaller)


def test_too_many_questions_are_refused_in_one_sentence(tokenizer):
    """Oracle: the sentence."""
    shape = dataclasses.replace(EpisodeShape.fit([RECORD], tokenizer), num_questions=3)
    sentence = "the 4 questions of r, the longest of 7, do not fit into 3 of 7; make the shape with EpisodeShape.fit over all records"
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        encode_record(RECORD, tokenizer, shape)


def test_long_facts_are_cut_at_their_end_and_counted(tokenizer):
    """Oracle: the first four words of each fact; two have more, and none has more than nine."""
    facts = (*RECORD.facts[:2], dataclasses.replace(RECORD.facts[0], text="Ottilie keeps bees here too"), RECORD.facts[2])
    record = dataclasses.replace(RECORD, facts=facts)
    shape = EpisodeShape.fit([record], tokenizer, slot_width=4)
    conversation = encode_record(record, tokenizer, shape)
    assert read(tokenizer, conversation.fact_tokens, conversation.fact_length) == [
        "Ottilie keeps bees",
        "Bram moved to Delft",
        "Ottilie keeps bees here",
        "Bram moved from Delft",
    ]
    assert count_cut_facts([record, SHORT], tokenizer, 4) == 2
    assert count_cut_facts([record, SHORT], tokenizer, 9) == 0


FACT, QUESTION = RECORD.facts[0], RECORD.questions[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"facts": (dataclasses.replace(FACT, text=" \n"),)}, r"the text of fact 0 of conversation 'r' is ' \\n'; give it a text"),
        ({"facts": (dataclasses.replace(FACT, text=None),)}, "the text of fact 0 of conversation 'r' is None; give it a text"),
        (
            {"facts": (dataclasses.replace(FACT, date="\ud800"),)},
            "the date of fact 0 of conversation 'r' holds half a character; replace it",
        ),
        ({"facts": (FACT, dataclasses.replace(FACT, speaker=2))}, "the speaker of fact 1 of conversation 'r' is 2; .* from 0 to 1"),
        ({"facts": (FACT, dataclasses.replace(FACT, speaker=True))}, "the speaker of fact 1 of conversation 'r' is True; .* from 0 to 1"),
        ({"questions": (dataclasses.replace(QUESTION, question=""),)}, "the question 0 of conversation 'r' is ''; give it a text"),
        ({"questions": (dataclasses.replace(QUESTION, evidence=(3,)),)}, "the evidence of question 0 .* is 3; .* from 0 to 2"),
        ({"questions": (dataclasses.replace(QUESTION, evidence=(-1,)),)}, "the evidence of question 0 .* is -1; .* from 0 to 2"),
        ({"questions": (dataclasses.replace(QUESTION, evidence=(1, 1)),)}, "the evidence of question 0 .* is 1; .* from 2 to 2"),
        ({"questions": (dataclasses.replace(QUESTION, asked_after=-1),)}, "the asked_after of question 0 .* is -1; it must be a number"),
        ({"questions": (dataclasses.replace(QUESTION, category=2**31),)}, "the category of question 0 .* is 2147483648; .* from 0 to"),
        ({"speakers": ("Ottilie",)}, "conversation 'r' has 1 speakers; give it two"),
    ],
)
def test_a_record_that_points_at_nothing_is_refused(changes, sentence):
    """Oracle: each sentence by hand. numpy would take -1 for the last fact, and a fact without a token is one that is not there."""
    with pytest.raises(ValueError, match=f"^{sentence}"):
        dataclasses.replace(RECORD, **{"questions": ()} | changes)


def test_no_conversation_has_no_shape(tokenizer):
    """Oracle: the sentence."""
    with pytest.raises(ValueError, match="^there is no conversation to encode; give one or more$"):
        EpisodeShape.fit([], tokenizer)


def test_stack_adds_a_leading_axis(tokenizer):
    """Oracle: each conversation by itself."""
    shape = EpisodeShape.fit([RECORD, SHORT], tokenizer)
    apart = [encode_record(record, tokenizer, shape) for record in (RECORD, SHORT, RECORD)]
    together = stack(apart)
    for i, conversation in enumerate(apart):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], together), conversation)
    assert together.evidence.shape == (3, 4, 3)
