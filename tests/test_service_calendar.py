"""The years that the tiny model is shown, and those that are meant."""

import pytest

from mr1jax.service.calendar import known_years, put_back, shown_dates

YEARS = (2022, 2023)


@pytest.mark.parametrize(
    ("dates", "shown"),
    [
        (["8 May 2026"], ["8 May 2023"]),
        (["8 May 2026", "1 June 2025", "2 June 2026"], ["8 May 2023", "1 June 2022", "2 June 2023"]),
        (["8 May 2026", "1 June 1999", "1 June 1998"], ["8 May 2023", "1 June 2022", "1 June 2022"]),
        (["8 May 2022", "1 June 2023"], ["8 May 2022", "1 June 2023"]),  # known ones stay
        (["8 May 2022"], ["8 May 2022"]),
        ([], []),
    ],
)
def test_years_are_shown_in_their_order(dates, shown):
    """Oracle: by hand; a model that reads any year is shown all as they are."""
    assert list(shown_dates(dates, YEARS).values()) == shown
    assert shown_dates(dates, ()) == {date: date for date in dates}


def test_dates_are_put_back_where_they_stand_whole():
    """Oracle: by hand."""
    shown = shown_dates(["8 May 2026", "1 June 2025"], YEARS)
    assert put_back("dog [1] 8 May 2023\n**Answer:** 1 June 2022", shown) == "dog [1] 8 May 2026\n**Answer:** 1 June 2025"
    assert put_back("18 May 2023, 8 May 20231, 2023", shown) == "18 May 2023, 8 May 20231, 2023"
    assert put_back("8 May 2023", {"8 May 2023": "8 May 2023"}) == "8 May 2023"


def test_model_that_ships_copies_beside_any_year():
    """Oracle: the sentences themselves, said in a year that the model never read, and the date of the first as the answer to when."""
    from mr1jax import MemoryAgent
    from mr1jax.config import Config
    from mr1jax.prepare import load_start

    assert known_years(load_start(Config())) == YEARS
    said = ["Fiona said there is a brother called Daisy", "Fiona says the club is called Seachil", "Rosa said that the wind was nice"]
    with MemoryAgent.from_pretrained() as agent:
        for text in said:
            agent.add(text, user_id="u", timestamp="2031-11-28")
        assert [memory["memory"] for memory in agent.get_all(user_id="u")["results"]] == said[::-1]
        reply = agent.answer("What name does Fiona's club have?", user_id="u", timestamp="2031-12-01")
    assert reply["answer"] == "Seachil"
    assert reply["response"].splitlines()[0].endswith("28 November 2031")
