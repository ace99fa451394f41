"""What Memory-R1 reports on LongMemEval (arXiv 2508.19828, Tables 4 and 5), by the number of a question's type in `reader.TYPES`.

The paper trains on LoCoMo alone and asks these questions of what that taught. Its column "OD" is single-session-assistant (only so do its
means over 500 questions come out), and a question without an answer counts in its type. It names no judge model.
"""

from typing import NamedTuple

Figures = dict[int | str, float]  # in percent, by type and over "all" questions; over all alone in Table 5


class Row(NamedTuple):
    """One method's F1, BLEU-1 and share of answers that the paper's judge took for right."""

    backbone: str
    method: str
    f1: Figures
    bleu1: Figures
    judge: Figures


def _row(backbone: str, method: str, *cells: tuple[float, float, float]) -> Row:
    """Reads (F1, BLEU-1, judge) in the order of the paper's lines: user, preference, "OD", multi-session, update, temporal, overall."""
    lines: tuple[int | str, ...] = (1, 3, 2, 4, 5, 6, "all")
    f1, bleu1, judge = (dict(zip(lines[-len(cells) :], column, strict=True)) for column in zip(*cells, strict=True))
    return Row(backbone, method, f1, bleu1, judge)


_LLAMA, _QWEN = "Llama-3.1-8B-Instruct", "Qwen2.5-7B-Instruct"

TABLE_4 = (
    _row(
        *(_LLAMA, "base", (61.9, 53.2, 80.0), (7.4, 0.1, 46.7), (17.9, 16.6, 19.6), (20.8, 19.6, 33.1)),
        *((36.0, 27.9, 51.3), (34.0, 23.1, 42.1), (31.3, 25.0, 44.2)),
    ),
    _row(
        *(_LLAMA, "Memory-R1-PPO", (78.9, 75.6, 87.1), (9.6, 1.6, 50.0), (30.6, 24.6, 33.9), (43.1, 43.6, 54.1)),
        *((46.4, 43.1, 55.1), (37.0, 29.2, 49.6), (43.6, 39.5, 55.2)),
    ),
    _row(
        *(_LLAMA, "Memory-R1-GRPO", (76.0, 70.3, 87.1), (11.5, 3.8, 63.3), (31.2, 25.3, 33.9), (50.0, 48.1, 57.9)),
        *((38.5, 35.5, 52.6), (41.5, 30.3, 45.1), (45.2, 39.3, 55.4)),
    ),
    _row(
        *(_QWEN, "base", (64.4, 54.6, 90.0), (13.9, 2.5, 53.3), (14.1, 14.4, 16.1), (30.2, 26.9, 54.9)),
        *((40.5, 33.5, 59.0), (36.5, 24.5, 44.4), (35.5, 28.3, 53.2)),
    ),
    _row(
        *(_QWEN, "Memory-R1-PPO", (70.8, 65.5, 80.0), (14.9, 2.2, 66.7), (23.5, 21.1, 19.6), (32.4, 35.1, 36.1)),
        *((52.3, 48.2, 65.4), (38.1, 26.3, 38.4), (40.3, 35.5, 47.4)),
    ),
    _row(
        *(_QWEN, "Memory-R1-GRPO", (80.9, 76.3, 91.4), (12.6, 2.0, 66.7), (26.8, 23.0, 26.8), (51.7, 48.5, 63.2)),
        *((54.4, 51.3, 65.4), (35.1, 25.8, 41.4), (46.7, 41.1, 57.8)),
    ),
)

TABLE_5 = (
    _row(_LLAMA, "LoCoMo (RAG)", (20.55, 15.17, 21.00)),
    _row(_LLAMA, "A-Mem", (38.36, 33.30, 54.20)),
    _row(_LLAMA, "Mem0", (31.41, 21.69, 41.20)),
    _row(_LLAMA, "Memory-SFT", (43.89, 36.72, 54.80)),
    _row(_QWEN, "LoCoMo (RAG)", (18.27, 14.57, 22.20)),
    _row(_QWEN, "A-Mem", (41.55, 36.58, 54.80)),
    _row(_QWEN, "Mem0", (38.44, 34.53, 46.80)),
    _row(_QWEN, "Memory-SFT", (43.16, 35.04, 54.80)),
)
