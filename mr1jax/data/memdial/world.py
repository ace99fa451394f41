"""memdial: a world in which two people talk over some weeks, and a memory has to keep up with what they say.

A conversation is a timeline of facts in sessions with dates. Facts appear, are made precise, change, are corrected, end, are repeated;
events happen and stay; and there is chatter that nobody will ask about. There is more of all that than a bank has slots, so what the
Memory Manager keeps, merges and drops decides what can be answered. Questions are single-hop, multi-hop, temporal and about things that
were never said or no longer hold. Everything is drawn from one seed; the splits share no name, no value and no wording.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mr1jax.data.memdial import wordings as say
from mr1jax.data.memdial.lexicon import draw_value, render_date
from mr1jax.data.records import ALWAYS, Fact, Question, Record

SINGLE_HOP, MULTI_HOP, TEMPORAL, NOT_MENTIONED = 1, 2, 3, 4
CATEGORIES = {SINGLE_HOP: "single-hop", MULTI_HOP: "multi-hop", TEMPORAL: "temporal", NOT_MENTIONED: "not mentioned"}
NO_ANSWER = "not mentioned"


@dataclass(frozen=True)
class WorldConfig:
    """How much of what happens in a conversation. The counts are of facts; their sum is the length of the conversation."""

    num_states: int = 10  # things that have one value at a time
    num_events: int = 4
    num_changes: int = 6  # a state said again with another value, corrected, or made precise
    num_endings: int = 1
    num_repeats: int = 1
    num_chatter: int = 20
    num_sessions: int = 8
    vague_share: float = 0.2  # of states that are first mentioned without their value
    hop_share: float = 0.4  # of states that are told of somebody's sister, friend, boss ..., once there is one
    num_wordings: int | None = None  # ways to say the same in one conversation; None: all that the split has

    @property
    def num_facts(self) -> int:
        return self.num_states + self.num_events + self.num_changes + self.num_endings + self.num_repeats + self.num_chatter


@dataclass
class _State:
    """A relation of a person as it stands: its value (None while vague or after its end) and the fact that last told it."""

    person: str
    relation: say.Relation
    speaker: int
    value: str | None = None
    fact: int = -1
    ended: bool = False


@dataclass
class _Story:
    """A conversation while it is told."""

    split: str
    rng: random.Random
    num_wordings: int | None
    speakers: tuple[str, str]
    dates: list[str]
    states: list[_State] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    values: list[str | None] = field(default_factory=list)  # of each fact: what it tells, None where it tells nothing
    questions: list[Question] = field(default_factory=list)
    habits: dict[say.Wordings, tuple[str, ...]] = field(default_factory=dict)  # which of the wordings these two use

    def pick(self, wordings: say.Wordings) -> str:
        if wordings not in self.habits:
            known = wordings.of(self.split)
            few = self.num_wordings is not None and self.num_wordings < len(known)
            self.habits[wordings] = tuple(self.rng.sample(known, self.num_wordings)) if few else known
        return self.rng.choice(self.habits[wordings])

    def value(self, kind: str) -> str:
        """A value of a kind; nobody is a speaker's own sister, nor is the other speaker."""
        return next(v for v in iter(lambda: draw_value(kind, self.split, self.rng), None) if v not in self.speakers)

    def tell(self, text: str, speaker: int, kind: str, value: str | None = None, about: int = -1) -> int:
        """Adds a fact and returns its index. `about` is the earlier fact it repeats, changes or ends."""
        self.values.append(value)
        date = self.dates[len(self.facts)]
        self.facts.append(Fact(_with_articles(text), speaker, date, source=str(about) if about >= 0 else "", kind=kind))
        return len(self.facts) - 1


def _with_articles(text: str) -> str:
    """Writes "an" for "a" before a vowel, since templates cannot know what fills them."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def _statement(story: _Story, state: _State, named: say.Wordings, plain: say.Wordings, **words: str) -> str:
    own = state.relation.statement
    general = named if state.relation.named else plain
    wordings = own if own and general in (say.NAMED_STATEMENTS, say.PLAIN_STATEMENTS) else general
    return story.pick(wordings).format(p=state.person, n=state.relation.noun, v=state.value, **words)


def _question(story: _Story, state: _State) -> str:
    relation = state.relation
    wordings = relation.question or (say.NAMED_QUESTIONS if relation.named else say.PLAIN_QUESTIONS)
    return _with_articles(story.pick(wordings).format(p=state.person, n=relation.noun))


def _close_questions(story: _Story, fact: int) -> None:
    """Ends the validity of every question that rests on a fact which the newest one replaces."""
    now = len(story.facts)
    story.questions = [
        Question(**{**vars(q), "valid_until": now}) if fact in q.evidence and q.category != TEMPORAL and q.valid_until == ALWAYS else q
        for q in story.questions
    ]


def _ask_about(story: _Story, state: _State) -> None:
    """Adds the question about a state that has just been told, changed or ended."""
    answer, category = (state.value, SINGLE_HOP) if state.value else (NO_ANSWER, NOT_MENTIONED)
    story.questions.append(Question(_question(story, state), answer, category, (state.fact,), len(story.facts)))


def _tell_state(story: _Story, state: _State, config: WorldConfig) -> None:
    """A state is first mentioned, sometimes without its value."""
    if story.rng.random() < config.vague_share:
        text = story.pick(say.VAGUE).format(p=state.person, n=state.relation.noun)
        state.fact = story.tell(text, state.speaker, "vague")
        return
    state.value = story.value(state.relation.kind)
    state.fact = story.tell(_statement(story, state, say.NAMED_STATEMENTS, say.PLAIN_STATEMENTS), state.speaker, "new", state.value)
    _ask_about(story, state)


def _tell_change(story: _Story, state: _State) -> None:
    """A state is made precise, changes, or is corrected."""
    old_fact, old_value = state.fact, state.value
    while state.value == old_value:
        state.value = story.value(state.relation.kind)
    if old_value is None:
        text, kind = _statement(story, state, say.NAMED_STATEMENTS, say.PLAIN_STATEMENTS), "refine"
    elif state.relation.fixed or story.rng.random() < 0.25:
        text, kind = story.pick(say.CORRECTIONS).format(p=state.person, n=state.relation.noun, v=state.value), "correct"
    elif story.rng.random() < 0.4:  # nothing in the wording shows that something changed: only the memory does
        text, kind = _statement(story, state, say.NAMED_STATEMENTS, say.PLAIN_STATEMENTS), "change"
    else:
        text, kind = _statement(story, state, say.NAMED_CHANGES, say.PLAIN_CHANGES), "change"
    state.fact = story.tell(text, state.speaker, kind, state.value, about=old_fact)
    _close_questions(story, old_fact)
    _ask_about(story, state)


def _tell_ending(story: _Story, state: _State) -> None:
    text = story.pick(say.ENDINGS).format(p=state.person, n=state.relation.noun)
    old_fact, state.value, state.ended = state.fact, None, True
    state.fact = story.tell(text, state.speaker, "end", about=old_fact)
    _close_questions(story, old_fact)
    _ask_about(story, state)


def _tell_repeat(story: _Story, state: _State) -> None:
    """Says what is known in other words. The questions about it may from now on rest on either fact; the first stays the evidence."""
    story.tell(_statement(story, state, say.NAMED_STATEMENTS, say.PLAIN_STATEMENTS), state.speaker, "repeat", state.value, state.fact)


def _tell_event(story: _Story, speaker: int, event: say.Event) -> None:
    person = story.speakers[speaker]
    value = _with_articles(event.article + story.value(event.kind))
    words = dict(p=person, past=event.past, base=event.base, v=value, w=story.value("person"))
    fact = story.tell(story.pick(say.EVENT_STATEMENTS).format(**words), speaker, "event", value)
    when = story.pick(say.WHEN_QUESTIONS).format(**words)
    story.questions.append(Question(when, story.facts[fact].date, TEMPORAL, (fact,), fact + 1))
    if story.rng.random() < 0.5:
        what = story.pick(say.WHAT_QUESTIONS).format(**words)
        story.questions.append(Question(what, value, SINGLE_HOP, (fact,), fact + 1))


def _tell_chatter(story: _Story) -> None:
    rng, speaker = story.rng, story.rng.randrange(2)
    words = dict(mood=rng.choice(say.MOODS), topic=rng.choice(say.TOPICS), n=rng.choice(say.RELATIONS).noun, w=story.speakers[1 - speaker])
    story.tell(story.pick(say.CHATTER).format(p=story.speakers[speaker], **words), speaker, "chatter")


def _draw_states(story: _Story, num_states: int) -> list[_State]:
    """Who has what. Both speakers may have a dog: neither the name nor the relation alone tells which fact is meant."""
    pairs = [(speaker, relation) for speaker in range(2) for relation in say.RELATIONS]
    return [_State(story.speakers[speaker], relation, speaker) for speaker, relation in story.rng.sample(pairs, num_states)]


def _plan(story: _Story, config: WorldConfig) -> list[str]:
    """The order in which kinds of facts come: a state must be told before it can change, end or be repeated."""
    kinds = ["state"] * config.num_states + ["event"] * config.num_events + ["chatter"] * config.num_chatter
    later = ["change"] * config.num_changes + ["end"] * config.num_endings + ["repeat"] * config.num_repeats
    story.rng.shuffle(kinds)
    third = len(kinds) // 3
    for kind in later:
        kinds.insert(story.rng.randrange(third, len(kinds) + 1), kind)
    return kinds


def _hop(story: _Story, told: list[_State]) -> None:
    """Makes the next state one of a person who is somebody's sister, friend or boss, and asks for it through that relation."""
    through = [s for s in told if s.relation.of_person and s.value]
    link = story.rng.choice(through)
    known = {s.relation.noun for s in story.states if s.person == link.value}
    relation = story.rng.choice([r for r in say.RELATIONS if not r.of_person and r.question is None and r.noun not in known])
    state = _State(link.value, relation, link.speaker, story.value(relation.kind))
    state.fact = story.tell(_statement(story, state, say.NAMED_STATEMENTS, say.PLAIN_STATEMENTS), state.speaker, "new", state.value)
    story.states.append(state)
    text = story.pick(say.HOP_QUESTIONS).format(p=link.person, n=relation.noun, m=link.relation.noun)
    story.questions.append(Question(text, state.value, MULTI_HOP, (link.fact, state.fact), len(story.facts)))
    _ask_about(story, state)


def _ask_never_mentioned(story: _Story, num: int) -> None:
    """Asks for relations that nobody ever told of this person."""
    known = {(s.person, s.relation.noun) for s in story.states}
    absent = [(p, r) for p in story.speakers for r in say.RELATIONS if (p, r.noun) not in known]
    for person, relation in story.rng.sample(absent, num):
        text = _question(story, _State(person, relation, 0))
        story.questions.append(Question(text, NO_ANSWER, NOT_MENTIONED, (), 0))


def generate(seed: int, split: str, config: WorldConfig = WorldConfig()) -> tuple[Record, tuple[str | None, ...]]:
    """Draws one conversation of a split, and beside it what each fact tells: its value, None where it has none.

    The same arguments give the same record, in every process and on every machine. The values are for a teacher; no agent sees them.
    """
    rng = random.Random(f"memdial/{split}/{seed}")
    first = draw_value("person", split, rng)
    second = next(name for name in iter(lambda: draw_value("person", split, rng), None) if name != first)
    days = sorted(rng.sample(range(720), config.num_sessions))
    dates = [render_date(days[i * config.num_sessions // config.num_facts]) for i in range(config.num_facts)]
    story = _Story(split, rng, config.num_wordings, (first, second), dates)
    story.states = _draw_states(story, config.num_states)
    _tell(story, config)
    _ask_never_mentioned(story, 2)
    record = Record(f"memdial-{split}-{seed}", story.speakers, tuple(story.facts), tuple(story.questions))
    return record, tuple(story.values)


def _tell(story: _Story, config: WorldConfig) -> None:
    untold = list(story.states)
    told: list[_State] = []
    events = story.rng.sample([(speaker, event) for speaker in range(2) for event in say.EVENTS], config.num_events)
    for kind in _plan(story, config):
        settled = [s for s in told if s.value]
        changeable = [s for s in told if not s.ended]
        ending = [s for s in settled if s.relation.ends]
        if kind == "state" and any(s.relation.of_person for s in settled) and story.rng.random() < config.hop_share:
            _hop(story, told)
        elif kind == "state":
            told.append(untold.pop())
            _tell_state(story, told[-1], config)
        elif kind == "change" and changeable:
            _tell_change(story, story.rng.choice(changeable))
        elif kind == "end" and ending:
            _tell_ending(story, story.rng.choice(ending))
        elif kind == "repeat" and settled:
            _tell_repeat(story, story.rng.choice(settled))
        elif kind == "event":
            _tell_event(story, *events.pop())
        else:  # chatter, and where nothing has been told yet that could change
            _tell_chatter(story)


def conversations(split: str, seed: int, count: int, config: WorldConfig = WorldConfig()) -> Iterator[Record]:
    """Draws `count` conversations of a split; another seed gives another draw of the same world."""
    return (generate(seed * 1_000_000 + i, split, config)[0] for i in range(count))
