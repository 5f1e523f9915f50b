from datetime import UTC, datetime, timedelta

import pytest

from slidemill.runs.tables import add, age_words, counted, show, size_words, table


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_400, "99.4 kB"),
        (99_600, "100 kB"),
        (999_600, "1.0 MB"),
        (1_200_000_000, "1.2 GB"),
        (3e12, "3.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_a_length_is_in_the_unit_that_people_read(count, words):
    assert size_words(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "now"), (61, "1 minute"), (7300, "2 hours"), (90_000, "1 day"), (259_300, "3 days")],
)
def test_an_age_is_in_the_unit_that_people_read(seconds, words):
    time = datetime.now(UTC) - timedelta(seconds=seconds)
    assert age_words(time.isoformat()) == words


def test_one_is_not_several():
    assert (counted(1, "folder"), counted(1200, "folder")) == ("1 folder", "1,200 folders")


def test_names_are_no_markup_and_no_line_is_wider_than_a_hundred(capsys):
    made = table("[red]runs[/red]", ("name",), ("size",), "why")
    add(made, "[bold]x[/bold]" * 10, 5, None)
    show(made)
    printed = capsys.readouterr().out
    assert "[red]runs[/red]" in printed
    assert "[bold]x[/bold]" in printed
    assert max(map(len, printed.splitlines())) <= 100
