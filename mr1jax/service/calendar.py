"""Days in the years that a small model has seen.

The tiny model that ships has read dates of two years. At any other it loses its place: with "28 November 2026" beside them it misquotes
texts that it copies without a fault beside "28 November 2022". So it is shown the years of a request as years that it knows, in their
order, and in what it writes they are put back. Day and month are never touched.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from mr1jax.prepare import Start

_YEARS = range(1000, 3000)


def known_years(start: Start) -> tuple[int, ...]:
    """Lists the years that the model that ships has one token for, oldest first; none for a backbone, which can read any."""
    if start.config.backbone:
        return ()
    return tuple(year for year in _YEARS if len(start.tokenizer.encode(str(year))) == 1)


def shown_dates(dates: Iterable[str], years: Sequence[int]) -> dict[str, str]:
    """Maps dates such as "8 May 2026" to those that are shown for them; to themselves where all years are known, or none is.

    The newest year is shown as the last one known, that before it as the one before, and all that are older than there are years for as
    the first.
    """
    found = sorted({_year(date) for date in dates}, reverse=True)
    if not years or set(found) <= set(years):
        return {date: date for date in dates}
    shown = {year: years[max(-1 - place, -len(years))] for place, year in enumerate(found)}
    return {date: re.sub(r"\d+$", str(shown[_year(date)]), date) for date in dates}


def put_back(text: str, shown: Mapping[str, str]) -> str:
    """Writes a text with the dates that were meant. Where one stands for two, the last of `shown` was meant."""
    meant = {each: date for date, each in shown.items() if each != date}
    if not meant:
        return text
    return re.sub("|".join(rf"\b{re.escape(each)}\b" for each in meant), lambda found: meant[found.group()], text)


def _year(date: str) -> int:
    return int(date.rsplit(" ", 1)[-1])
