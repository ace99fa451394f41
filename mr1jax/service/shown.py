"""Memories and what was done to them, as lines that a person reads. What is printed holds no control characters, whoever wrote it."""

from mr1jax.service.records import Json
from mr1jax.service.texts import one_line

_NAMES = {"NONE": "NOOP"}  # mem0 calls it NONE; the paper, and whoever reads this, NOOP


def operation_lines(result: Json) -> list[str]:
    """Shows one result of `add`: what was done and to which memory, what it says now, and before it what it said until then."""
    name = f"{_NAMES.get(result['event'], result['event']):7} {result['id'] or '-':36}  "
    reason = f"  ({one_line(result['reason'])})" if result.get("reason") else ""
    if result.get("previous_memory") is None:
        return [name + one_line(result["memory"]) + reason]
    return [name + one_line(result["previous_memory"]), f"{'->':>{len(name) - 2}}  {one_line(result['memory'])}"]


def memory_line(memory: Json) -> str:
    """Shows a memory: the day of its last text, or how well it fits a query; its id; what it says."""
    first = f"{memory['score']:10.2f}" if "score" in memory else memory["updated_at"][:10]
    return f"{first}  {memory['id']}  {one_line(memory['memory'])}{'  (deleted)' if memory['deleted'] else ''}"


def event_line(event: Json) -> str:
    """Shows an operation of the log: its number, when it was done and by whom, and the text before and after."""
    texts = " -> ".join(one_line(text) for text in (event["old_memory"], event["new_memory"]) if text is not None)
    return f"{event['id']:6}  {event['created_at'][:19]}  {event['actor']:7}  {event['event']:7}  {texts}"


def after_answer(answered: Json) -> list[str]:
    """Shows what follows an answer that was shown as it came: the end of its line, and the memories that the Answer Agent was shown, those
    that it quotes with a star."""
    shown = [f"  {'*' if memory['selected'] else ' '} {one_line(memory['memory'])}" for memory in answered["memories"]]
    return ["" if answered["answer"] else "(no answer)", *shown]
