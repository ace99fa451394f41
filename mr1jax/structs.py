"""Every pytree that crosses a border, and the one dimension key that shapes are written in.

Dimension key. A local array carries its shape as a suffix (`tokens_SW`), a field carries it in a docstring.

    P  prompts (states) in a batch     G  group members sampled for one prompt
    L  tokens of a prompt              R  tokens of a response
    S  slots of a bank                 W  tokens of a slot          M  hashed words of a slot
    K  retrieved memories              E  size of an embedding      D  width of the model
    T  facts of a conversation         Q  questions                 A  bytes of an answer
    N  layers   H  query heads   J  key-value heads   C  size of a head   F  feed-forward width   V  vocabulary
    Z  rank of an adapter

Nothing here knows what a field means beyond its shape; the rooms that own the meaning import from here.
"""

import enum
from typing import Any

import jax
from flax import struct

Array = jax.Array
PyTree = Any

PAD = 0  # the token id of padding in every tokenizer this library builds; never sampled, never scored
NO_TERM = 0  # a hashed word that is not there; real hashes start at 1
NO_SLOT = -1  # "no slot": what a retrieval or an operation carries where there is none
NO_KIND = -1  # of a response that asks for nothing legal: an operation of this kind is refused as BAD_KIND
NEVER = -1  # a time before the first turn


class OperationKind(enum.IntEnum):
    """The four operations of Memory-R1 (arXiv 2508.19828, section 3.1)."""

    NOOP = 0
    ADD = 1
    UPDATE = 2
    DELETE = 3


class OperationStatus(enum.IntEnum):
    """What `apply_operation` did with an operation. Anything but APPLIED left the bank as it was, save its clock."""

    APPLIED = 0
    EMPTY_SLOT = 1  # UPDATE or DELETE of a slot that holds nothing
    BAD_SLOT = 2  # a slot outside 0 .. S-1
    BANK_FULL = 3  # ADD to a full bank under the reject policy
    EMPTY_TEXT = 4  # ADD or UPDATE without a token
    BAD_KIND = 5  # a kind that is none of the four


@struct.dataclass
class MemoryBank:
    """One bank of fixed capacity S; batch it with `vmap`.

    tokens:   int32[S, W]    text of a slot, PAD past its length
    length:   int32[S]       tokens in use
    occupied: bool[S]        the only truth about existence: everything else in an empty slot is junk
    terms:    int32[S, M]    hashed words, what lexical retrieval reads; NO_TERM past the last
    speaker:  int32[S]       whose memory it is
    created:  int32[S]       date index of the ADD
    updated:  int32[S]       date index of the last write
    written:  int32[S]       clock of the last write: recency order, and what eviction goes by
    clock:    int32[]        operations seen, applied or not
    embedding: float[S, E]   what dense retrieval reads; None where no encoder is used
    """

    tokens: Array
    length: Array
    occupied: Array
    terms: Array
    speaker: Array
    created: Array
    updated: Array
    written: Array
    clock: Array
    embedding: Array | None = None


@struct.dataclass
class Operation:
    """One operation on one bank.

    kind: int32[] an `OperationKind`; slot: int32[] target of UPDATE and DELETE, ignored by ADD and NOOP;
    tokens: int32[W], length: int32[], terms: int32[M]: new text, read by ADD and UPDATE;
    speaker: int32[], time: int32[] date index; embedding: float[E] or None.
    """

    kind: Array
    slot: Array
    tokens: Array
    length: Array
    terms: Array
    speaker: Array
    time: Array
    embedding: Array | None = None


@struct.dataclass
class Retrieval:
    """The K best memories of one bank, best first.

    slot: int32[K], NO_SLOT where mask is False; score: float32[K]; mask: bool[K], False where fewer than K exist.
    """

    slot: Array
    score: Array
    mask: Array


@struct.dataclass
class Generation:
    """G responses to each of P prompts.

    tokens:   int32[P, G, R]    PAD past the end token
    length:   int32[P, G]       tokens up to and including the end token; R where it never came
    log_prob: float32[P, G, R]  of the distribution really sampled from (grammar, temperature, top-k, top-p); 0 past length
    state:    int32[P, G, R]    grammar state before each token: what was allowed there
    value:    float32[P, G, R]  the value head's estimate before each token; 0 without a value head
    """

    tokens: Array
    length: Array
    log_prob: Array
    state: Array
    value: Array


@struct.dataclass
class Conversation:
    """One conversation as arrays: T facts in the order they were said, and Q questions about them.

    fact_tokens: int32[T, W], fact_length: int32[T] (0: no such fact), fact_speaker: int32[T], fact_time: int32[T]
    date_tokens: int32[I, Y], date_length: int32[I]   the I dates of the conversation as text; `*_time` index them
    question_tokens: int32[Q, U], question_length: int32[Q] (0: no such question)
    answer_bytes: uint8[Q, A], answer_length: int32[Q]   the gold answer, UTF-8
    evidence: bool[Q, T]   which facts a question rests on
    category: int32[Q]     the data set's own number
    asked_after, valid_until: int32[Q]   the answer is this one while asked_after <= facts said < valid_until
    question_embedding: float32[Q, E]    what dense retrieval compares; None where no encoder is used
    """

    fact_tokens: Array
    fact_length: Array
    fact_speaker: Array
    fact_time: Array
    date_tokens: Array
    date_length: Array
    question_tokens: Array
    question_length: Array
    answer_bytes: Array
    answer_length: Array
    evidence: Array
    category: Array
    asked_after: Array
    valid_until: Array
    question_embedding: Array | None = None


@struct.dataclass
class Trajectory:
    """What the loss needs of P prompts x G responses, whoever wrote them, and of what the members of a group did after that.

    prompt: int32[P, L], prompt_length: int32[P]; generation: `Generation` [P, G]; reward: float32[P, G], one per member.
    own_prompt: int32[P, H, L], own_prompt_length: int32[P, H]   of H more decisions, each in a state of its own: a multiple of G, all
        members of a turn before those of the next. Generation is then [P, G + H]. None where there are none.
    """

    prompt: Array
    prompt_length: Array
    generation: Generation
    reward: Array
    own_prompt: Array | None = None
    own_prompt_length: Array | None = None


@struct.dataclass
class Guard:
    """The last updates that were done, a ring, so that one far above them is noticed.

    history: float32[2, window] loss and gradient norm; count: int32[] updates done so far
    """

    history: Array
    count: Array


@struct.dataclass
class TrainState:
    """All that a run is; nothing static inside, so all of it checkpoints.

    params:    {"manager": tree, "answerer": tree}; with LoRA two adapters, whose base is no part of what changes and comes beside it
    reference: the trained agent's tree at the start, for the KL term; None where kl_coef is 0, and with LoRA, where it is the base
    opt_state: of the trained agent only
    step:      int32[]
    key:       the run's PRNG key; step t uses fold_in(key, t)
    guard:     against spikes; None where the configuration asks for none
    """

    params: PyTree
    reference: PyTree
    opt_state: PyTree
    step: Array
    key: Array
    guard: Guard | None = None
