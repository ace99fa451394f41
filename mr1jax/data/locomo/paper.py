"""What Memory-R1 reports on LoCoMo (arXiv 2508.19828, Table 1), by the file's own category numbers.

Two naming schemes are in use for the same numbers, and they contradict each other: LoCoMo's own, and Mem0's, which Memory-R1
follows. The paper's "Open Domain" is LoCoMo's single-hop. So a category is a number here, and a name only beside its scheme.
"""

from typing import NamedTuple

LABELS = {
    "locomo": {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"},
    "mem0": {1: "single hop", 2: "temporal", 3: "multi-hop", 4: "open domain"},
}


class Row(NamedTuple):
    """One method's F1, BLEU-1 and J in percent on the 1,307 test questions: by category, and the mean over all questions."""

    backbone: str
    method: str
    f1: dict[int, float]
    bleu1: dict[int, float]
    judge: dict[int, float]
    overall_f1: float
    overall_bleu1: float
    overall_judge: float


def _row(backbone: str, method: str, *cells: tuple[float, float, float]) -> Row:
    """Reads (F1, BLEU-1, J) in the order of the paper's columns: single hop, multi-hop, open domain, temporal, overall."""
    *by_column, overall = cells
    by_category = dict(zip((1, 3, 4, 2), by_column, strict=True))
    f1, bleu1, judge = ({category: by_category[category][metric] for category in LABELS["mem0"]} for metric in (0, 1, 2))
    return Row(backbone, method, f1, bleu1, judge, *overall)


_LLAMA, _QWEN = "Llama-3.1-8B-Instruct", "Qwen2.5-7B-Instruct"

# As printed. The overall J of Mem0 on Qwen is not the mean of its parts, which is 58.30: a digit went wrong.
TABLE_1 = (
    _row(
        _LLAMA, "LoCoMo (RAG)", (12.25, 9.77, 13.81), (13.69, 10.96, 20.48), (11.59, 8.30, 15.96), (9.38, 8.15, 4.65), (11.41, 8.71, 13.62)
    ),
    _row(_LLAMA, "Mem0", (27.29, 18.63, 43.93), (18.59, 13.86, 37.35), (34.03, 24.77, 52.27), (26.90, 21.06, 31.40), (30.41, 22.22, 45.68)),
    _row(
        _LLAMA,
        "Memory-R1-PPO",
        (32.52, 24.47, 53.56),
        (26.86, 23.47, 42.17),
        (45.30, 39.18, 64.10),
        (41.57, 26.11, 47.67),
        (41.05, 32.91, 57.54),
    ),
    _row(
        _LLAMA,
        "Memory-R1-GRPO",
        (35.73, 27.70, 59.83),
        (35.65, 30.77, 53.01),
        (47.42, 41.24, 68.78),
        (49.86, 38.27, 51.55),
        (45.02, 37.51, 62.74),
    ),
    _row(_QWEN, "LoCoMo (RAG)", (9.57, 7.00, 15.06), (11.84, 10.02, 19.28), (8.67, 6.52, 12.79), (8.35, 8.74, 5.43), (8.97, 7.27, 12.17)),
    _row(_QWEN, "Mem0", (24.96, 18.05, 61.92), (20.31, 15.82, 48.19), (32.74, 25.27, 65.20), (33.16, 26.28, 38.76), (30.61, 23.55, 53.30)),
    _row(
        _QWEN,
        "Memory-R1-PPO",
        (34.22, 23.61, 57.74),
        (32.87, 29.48, 53.01),
        (44.78, 38.72, 66.99),
        (42.88, 30.30, 42.25),
        (41.72, 33.70, 59.53),
    ),
    _row(
        _QWEN,
        "Memory-R1-GRPO",
        (33.64, 26.06, 62.34),
        (23.55, 20.71, 40.96),
        (46.86, 40.92, 67.81),
        (47.75, 38.49, 49.61),
        (43.14, 36.44, 61.51),
    ),
)
