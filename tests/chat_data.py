"""Files of our own invention in the published forms of LongMemEval and MSC-Self-Instruct, with every kind of dirt that readers meet."""

import json


def turn(role, content, **marks):
    return {"role": role, "content": content, **marks}


def entry(question_id, kind, question, answer, sessions, answer_sessions):
    """sessions: (id, stamp, turns) each."""
    ids, dates, turns = (list(column) for column in zip(*sessions, strict=True))
    return {
        "question_id": question_id,
        "question_type": kind,
        "question": question,
        "answer": answer,
        "question_date": "2031/06/30 (Mon) 09:15",
        "haystack_session_ids": ids,
        "haystack_dates": dates,
        "haystack_sessions": turns,
        "answer_session_ids": answer_sessions,
    }


KAYAK = [
    turn("user", "I bought a green kayak.\n It cost 300 crowns.", has_answer=True),
    turn("assistant", "Lovely!", has_answer=False),
    turn("user", "  "),
]
ADVICE = [turn("user", "Name a knot."), turn("assistant", "Try the sheet bend. It joins two ropes.", has_answer=True)]
ORACLE = [
    # Sessions out of order, a number for an answer, a turn without a word.
    entry(
        "q1",
        "multi-session",
        "How many\nkayaks do I own?",
        2,
        [
            ("late", "2031/05/20 (Tue) 02:21", [turn("user", "My second kayak is red.", has_answer=True)]),
            ("early", "2031/05/20 (Tue) 01:09", KAYAK),
        ],
        ["early", "late"],
    ),
    entry("q2", "single-session-assistant", "Which knot did you name?", "the sheet bend", [("a", "2031/06/01 (Sun) 10:00", ADVICE)], ["a"]),
    # Never said: marked turns are no evidence of it.
    entry("q3_abs", "single-session-user", "What is my canoe called?", "You never spoke of a canoe.", [("k", "2031-04-02", KAYAK)], ["k"]),
    # No turn is marked: the sessions are the evidence.
    entry(
        "q4",
        "temporal-reasoning",
        "When did I move?",
        "3 March",
        [("m", "2031/03/04 (Tue) 8:05", [turn("user", "I moved yesterday."), turn("assistant", None)])],
        ["m"],
    ),
    entry("q5", "knowledge-update", "Where do I row now?", "on the Elbe", [("e", "2031/02/01 (Sat) 08:00", ADVICE)], ["e"]),
    entry("q6", "single-session-preference", "Suggest a trip.", "Something on a river", [("p", "2031/02/02 (Sun) 08:00", KAYAK)], ["p"]),
]
S = [
    {
        **ORACLE[1],
        "haystack_session_ids": ["x", "a"],
        "haystack_dates": ["2031/06/02 (Mon) 10:00", "2031/06/01 (Sun) 10:00"],
        "haystack_sessions": [[turn("user", "What is a tide?")], ADVICE],
    }
]

CHAT = {
    "personas": [["I keep bees."], ["I sing."]],
    "init_personas": [["I keep bees."], ["I sing."]],
    "summary_speaker_1": [["never shown"]],
    "metadata": {"initial_data_id": "valid_7", "session_id": 4},
    "previous_dialogs": [
        {
            "personas": [["I keep bees."], ["I sing."]],
            "dialog": [{"text": "I keep  bees."}, {"text": "I sing in a choir. On Sundays."}, {"text": ""}, {"text": "We do Bach."}],
            "time_num": 14,
            "time_unit": "days",
            "time_back": "14 days 7 hours ago",
        },
        {"dialog": [{"text": "Two hives now!"}], "time_back": None},
    ],
    "dialog": [
        {"text": "Hello again.", "id": "Speaker 2", "convai2_id": "valid_7"},
        {"text": "The bees swarmed.", "id": "Speaker 1", "convai2_id": "valid_7"},
        {"text": "Oh no.", "id": "bot_0", "convai2_id": "valid_7"},
    ],
    "self_instruct": {"B": "Remember  the hives? How many had you?", "A": "Two hives."},
}
MSC = [CHAT, CHAT | {"self_instruct": {"B": "How many hives?", "A": 2}}, CHAT | {"self_instruct": {"B": "Where?", "A": ""}}]


def longmemeval_file(path, entries=ORACLE):
    path.write_text(json.dumps(entries))
    return path


def msc_file(path, chats=MSC):
    path.write_text("".join(f"{json.dumps(chat)}\n\n" for chat in chats))
    return path
