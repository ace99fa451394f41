"""How people in memdial say things: every template belongs to one split, and what a test asks was never phrased so in training.

`{p}` is the person, `{n}` the noun of the relation, `{v}` the value, `{w}` a second value. A test template is made of words that training
has seen in other templates: what is held out is the wording, not the dictionary (a model this small brings no English of its own).
The subject comes first, the relation next, the value last, as it mostly does in LoCoMo's observations.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wordings:
    """Templates by split. `.of(split)` gives those that may be used there."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: str) -> tuple[str, ...]:
        return getattr(self, split)


@dataclass(frozen=True)
class Relation:
    """A relation with one value at a time: what a person's dog is called, where she lives.

    `kind` names the lexicon's values; `statement`, `change` and `question` are its own wordings, beside the general ones.
    """

    noun: str
    kind: str
    named: bool = False  # "a dog called X" rather than "the job is X"
    ends: bool = False  # it can end: "no longer has a dog"
    fixed: bool = False  # it does not change, though it can have been told wrongly
    of_person: bool = False  # its value is a person, about whom there may be facts too: multi-hop questions go through it
    statement: Wordings | None = None
    question: Wordings | None = None


@dataclass(frozen=True)
class Event:
    """Something that happens on a day and stays true: it never replaces another event."""

    past: str
    base: str
    kind: str
    article: str = ""


RELATIONS = (
    Relation("dog", "proper", named=True, ends=True),
    Relation("cat", "proper", named=True, ends=True),
    Relation("horse", "proper", named=True, ends=True),
    Relation("boat", "proper", named=True, ends=True),
    Relation("band", "proper", named=True, ends=True),
    Relation("company", "proper", named=True),
    Relation("street", "proper", named=True),
    Relation("school", "proper", named=True),
    Relation("cafe", "proper", named=True),
    Relation("club", "proper", named=True, ends=True),
    Relation("sister", "person", named=True, fixed=True, of_person=True),
    Relation("brother", "person", named=True, fixed=True, of_person=True),
    Relation("friend", "person", named=True, of_person=True),
    Relation("boss", "person", named=True, of_person=True),
    Relation("neighbour", "person", named=True, of_person=True),
    Relation(
        "home",
        "proper",
        statement=Wordings(
            (
                "{p} has a home in {v}",
                "{p}'s home is in {v}",
                "{p} said that the home is in {v}",
                "{p} told us about a home in {v}",
                "{p} is happy with a home in {v}",
            ),
            ("{p} says the home is in {v}",),
            ("{p} told us that the home is in {v}", "{p} mentioned a home in {v}"),
        ),
        question=Wordings(
            (
                "Where is {p}'s home?",
                "Can you tell me where {p}'s home is?",
                "Where does {p} have the home?",
            ),
            ("Where is it that {p} has the home?",),
            ("Do you know where {p}'s home is?",),
        ),
    ),
    Relation(
        "job",
        "job",
        ends=True,
        statement=Wordings(
            (
                "{p} has a job as a {v}",
                "{p}'s job is {v}",
                "{p} started a job as a {v}",
                "{p} said that the job is {v}",
                "{p} told us about a job as a {v}",
            ),
            ("{p} says the job is {v}",),
            ("{p} got a job as a {v}", "{p} told us that the job is {v}"),
        ),
    ),
    Relation("favourite food", "food"),
    Relation("favourite drink", "drink"),
    Relation("favourite colour", "colour"),
    Relation("instrument", "instrument", ends=True),
    Relation("sport", "sport", ends=True),
    Relation("language", "language"),
)

EVENTS = (
    Event("visited", "visit", "proper"),
    Event("went to", "go to", "place", "the "),
    Event("walked to", "walk to", "place", "the "),
    Event("bought", "buy", "thing", "a "),
    Event("sold", "sell", "thing", "a "),
    Event("repaired", "repair", "thing", "a "),
    Event("painted", "paint", "thing", "a "),
    Event("lost", "lose", "thing", "a "),
    Event("found", "find", "thing", "a "),
    Event("cooked", "cook", "food"),
    Event("watched", "watch", "proper"),
    Event("read", "read", "proper"),
    Event("met", "meet", "person"),
    Event("called", "call", "person"),
    Event("won", "win", "thing", "a "),
)

NAMED_STATEMENTS = Wordings(
    (
        "{p} has a {n} called {v}",
        "{p}'s {n} is called {v}",
        "{p} told us about a {n} called {v}",
        "{p} got a {n} called {v}",
        "{p} said that the {n} is called {v}",
        "{p} has a {n} by the name of {v}",
        "{p} mentioned the {n}, which is called {v}",
        "{p} is happy with a {n} called {v}",
    ),
    ("{p} says the {n} is called {v}", "{p} said there is a {n} called {v}"),
    ("{p} told us that the {n} is called {v}", "{p} mentioned a {n} called {v}"),
)
PLAIN_STATEMENTS = Wordings(
    (
        "{p}'s {n} is {v}",
        "{p} has a {n}, it is {v}",
        "{p} told us about the {n}, {v}",
        "{p} got a {n}, it is {v}",
        "{p} said that the {n} is {v}",
        "{p} mentioned the {n}, which is {v}",
        "{p} is happy with the {n}, {v}",
    ),
    ("{p} says the {n} is {v}", "{p} said there is a {n}, it is {v}"),
    ("{p} told us that the {n} is {v}", "{p} mentioned that the {n} is {v}"),
)
NAMED_CHANGES = Wordings(
    (
        "{p} now has a {n} called {v}",
        "{p}'s new {n} is called {v}",
        "{p} changed the {n}, it is called {v}",
        "{p} said that there is a new {n} called {v}",
        "{p} got another {n}, this one is called {v}",
    ),
    ("{p} says the new {n} is called {v}",),
    ("{p}'s {n} is now called {v}", "{p} told us about a new {n} called {v}"),
)
PLAIN_CHANGES = Wordings(
    (
        "{p} now has a {n}, it is {v}",
        "{p}'s new {n} is {v}",
        "{p} changed the {n}, it is {v}",
        "{p} said that there is a new {n}, {v}",
        "{p} got another {n}, this one is {v}",
    ),
    ("{p} says the new {n} is {v}",),
    ("{p}'s {n} is now {v}", "{p} told us about a new {n}, {v}"),
)
CORRECTIONS = Wordings(
    (
        "sorry, {p}'s {n} is really {v}",
        "{p}'s {n} is really {v}",
        "{p} was wrong, the {n} is {v}",
        "{p} said sorry, the {n} is {v}",
    ),
    ("{p} said no, the {n} is {v}",),
    ("{p} was sorry, the {n} is really {v}",),
)
VAGUE = Wordings(
    (
        "{p} has a {n}",
        "{p} thinks a lot about the {n}",
        "{p} is happy with the {n}",
        "{p} mentioned that there is a {n}",
        "{p} is really proud of the {n}",
        "{p} told us a bit about the {n}",
    ),
    ("{p} says there is a {n}",),
    ("{p} told us about a {n}", "{p} is really happy about the {n}"),
)
ENDINGS = Wordings(
    (
        "{p} no longer has a {n}",
        "{p} gave up the {n}",
        "{p}'s {n} is gone",
        "{p} said that there is no {n} now",
        "{p} mentioned that the {n} is gone",
    ),
    ("{p} says the {n} is gone",),
    ("{p} told us that the {n} is gone", "{p} has no {n} now"),
)
EVENT_STATEMENTS = Wordings(
    (
        "{p} {past} {v}",
        "{p} {past} {v} with {w}",
        "{p} says that {p} {past} {v}",
        "{p} {past} {v} and was happy about it",
        "{p} said that {p} {past} {v} with {w}",
        "{p} and {w} {past} {v}",
        "{p} mentioned to {w} that {p} {past} {v}",
    ),
    ("{p} {past} {v} and told {w}",),
    ("{p} told us that {p} {past} {v}", "{p} {past} {v} and thinks a lot about it"),
)

NAMED_QUESTIONS = Wordings(
    (
        "What is {p}'s {n} called?",
        "What is the name of {p}'s {n}?",
        "Can you tell me the name of {p}'s {n}?",
        "Do you know what {p}'s {n} is called?",
        "Which name does {p}'s {n} have?",
    ),
    ("What name does {p}'s {n} have?",),
    ("Do you know the name of {p}'s {n}?", "Can you tell me what {p}'s {n} is called?"),
)
PLAIN_QUESTIONS = Wordings(
    (
        "What is {p}'s {n}?",
        "Can you tell me {p}'s {n}?",
        "Do you know what {p} has as {n}?",
        "What is it that {p} has as {n}?",
    ),
    ("What does {p} have as {n}?",),
    ("Do you know {p}'s {n}?", "Can you tell me what {p}'s {n} is?"),
)
WHEN_QUESTIONS = Wordings(
    (
        "When did {p} {base} {v}?",
        "Do you know when {p} {past} {v}?",
        "On which day did {p} {base} {v}?",
        "When was the day that {p} {past} {v}?",
        "Can you tell me on which day {p} {past} {v}?",
    ),
    ("When was it that {p} {past} {v}?",),
    ("Can you tell me when {p} {past} {v}?", "Do you know on which day {p} {past} {v}?"),
)
WHAT_QUESTIONS = Wordings(
    ("What did {p} {base}?", "Do you know what {p} {past}?", "What is it that {p} {past}?"),
    ("What was it that {p} {past}?",),
    ("Can you tell me what {p} {past}?",),
)
HOP_QUESTIONS = Wordings(
    (
        "What is {p}'s {m}'s {n}?",
        "Do you know what {p}'s {m} has as {n}?",
        "Can you tell me the {n} of {p}'s {m}?",
        "Which {n} does {p}'s {m} have?",
    ),
    ("What does {p}'s {m} have as {n}?",),
    ("Do you know the {n} of {p}'s {m}?", "Can you tell me {p}'s {m}'s {n}?"),
)

_MOODS = "tired happy busy hungry late bored proud nervous cheerful cold sleepy calm thirsty curious worried relaxed glad sick".split()
_TOPICS = """the weather the traffic the news the rain the wind the holidays the weekend the garden the kitchen the train the sun the
snow the bus the elections the match the party the homework the dishes the stairs the phone""".replace("\n", " ")
TOPICS = tuple("the " + topic.strip() for topic in _TOPICS.split("the ") if topic.strip())
MOODS = tuple(_MOODS)
CHATTER = Wordings(
    (
        "{p} is {mood} today",
        "{p} laughed about {topic}",
        "{p} said hello and asked about {topic}",
        "{p} thinks {topic} was nice",
        "{p} wishes everyone a good day",
        "{p} and {w} talked about {topic} for a while",
        "{p} asked what a {n} costs",
        "{p} thanked {w} for the help with {topic}",
        "{p} was a bit {mood} because of {topic}",
        "{p} hopes to see {w} again soon",
        "{p} wonders if a {n} is a lot of work",
        "{p} agreed with {w} about {topic}",
        "{p} is {mood} about {topic}",
        "{p} mentioned {topic} to {w}",
        "{p} is sorry about {topic}",
        "{p} said hello to {w}",
        "{p} thinks that {w} is {mood}",
        "{p} said that {w} was {mood}",
        "{p} wonders about {topic}",
        "{p} wishes {w} a good day",
        "{p} is really {mood} now",
        "{p} asked {w} for help with {topic}",
        "{p} told {w} a bit about {topic}",
    ),
    ("{p} is {mood} because of {topic}", "{p} said that {topic} was nice", "{p} thanked {w} for the day"),
    (
        "{p} was {mood} today",
        "{p} talked about {topic} with {w}",
        "{p} said that {topic} was a lot of work",
        "{p} asked if a {n} is nice",
        "{p} hopes that {topic} is nice soon",
        "{p} and {w} laughed about {topic}",
    ),
)
