"""Classes of a label column: which spellings are one class, and in which order they come.

Numbers that are equal are one class, `1` beside `1.0`; other twins, `High` beside `high`, are
faults: a class more than there is would be learned. Classes that are numbers are ordered by size,
others by the alphabet. Works on text, before anything is computed; no pandas.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from decimal import Decimal

from slidemill.cohort.sheet import Sheet, SheetRow
from slidemill.cohort.twins import number_key, twin_groups, visible
from slidemill.config import Config, TaskConfig
from slidemill.errors import Problem

CLASS_TASKS = ("binary", "multiclass", "multilabel")
_ALIKE = "Write them alike"
_LISTED = f"{_ALIKE}; if they are classes of their own, list them in the `classes` of the task"


def in_order(classes: Iterable[str]) -> list[str]:
    """Classes, each once: by size if all are numbers, else in alphabetical order."""
    found = sorted(set(classes))
    numbers = {text: number_key(text) for text in found}
    if any(key is None for key in numbers.values()):
        return found
    return sorted(found, key=lambda text: Decimal(str(numbers[text])))


def spellings(texts: Iterable[str], chosen: Sequence[str] = ()) -> dict[str, str]:
    """The name of the class of each spelling that is not its own.

    Args:
        texts: Cells of a column.
        chosen: Names that the task gives; they win over those of the sheet.

    Returns:
        Only spellings of a number that is there in several, or that the task spells in its own way:
        under the task's spelling, else the shortest.
    """
    names = {key: text for text in chosen if (key := number_key(text)) is not None}
    there: dict[str, list[str]] = {}
    for text in sorted(set(texts), key=lambda text: (len(text), text)):
        if (key := number_key(text)) is not None:
            there.setdefault(key, []).append(text)
    return {
        text: name
        for key, group in there.items()
        for text in group
        if text != (name := names.get(key, group[0])) and text not in chosen
    }


def twins_of_classes(
    texts: Sequence[tuple[str, str]], chosen: Collection[str] = ()
) -> Iterator[str]:
    """Classes that look like one and are no number, in words.

    Args:
        texts: Slide and cell, of the cells that are not missing.
        chosen: Classes that the task lists: who lists both twins means two classes.
    """
    counts = Counter(text for _, text in texts)
    first = {text: slide for slide, text in reversed(texts)}
    for group in twin_groups(counts):
        if all(number_key(text) is not None for text in group) or set(group) <= set(chosen):
            continue
        said = " and ".join(
            f"{visible(text)} ({counts[text]} slides, first {first[text]})" for text in group
        )
        yield f"{said} look like one class"


def class_faults(
    where: str, texts: Sequence[tuple[str, str]], task: TaskConfig
) -> Iterator[Problem]:
    """Twins among the classes of a column as problems."""
    todo = _LISTED if task.type == "multiclass" else _ALIKE
    for what in twins_of_classes(texts, task.classes):
        yield Problem(where, what, todo)


def check_labels(config: Config, sheet: Sheet) -> Iterator[Problem]:
    """Twins among the classes of all tasks and among the sites."""
    evaluate = config.evaluate
    for number, task in enumerate(evaluate.tasks):
        for column in task.columns if task.type in CLASS_TASKS else ():
            where = f"evaluate.tasks.{number}, column {column}"
            yield from class_faults(where, _cells(sheet.rows, column), task)
    if evaluate.site is not None:
        texts = _cells(sheet.rows, evaluate.site)
        counts = Counter(text for _, text in texts)
        for group in twin_groups(counts):
            said = " and ".join(f"{visible(text)} ({counts[text]} slides)" for text in group)
            where = f"evaluate.site, column {evaluate.site}"
            yield Problem(where, f"{said} look like one site", _ALIKE)


def chosen_by(task: TaskConfig) -> tuple[str, ...]:
    """Names of classes that a task gives."""
    return (*task.classes, *(() if task.positive is None else (task.positive,)))


def classes_of_task(task: TaskConfig, rows: Sequence[SheetRow]) -> dict[str, list[str]]:
    """The classes of each column of a task of classes, in order; nothing for other tasks."""
    if task.type not in CLASS_TASKS:
        return {}
    found = {}
    for column in task.columns:
        texts = {text for _, text in _cells(rows, column)}
        other = spellings(texts, chosen_by(task))
        found[column] = list(task.classes) or in_order(other.get(text, text) for text in texts)
    return found


def new_orders(task: TaskConfig, rows: Sequence[SheetRow]) -> dict[str, list[str]]:
    """Classes of columns whose order is not that of the alphabet of their cells.

    It decides what is positive and how classes are numbered, so that it is part of what splits
    depend on; where the alphabet decides, or the task, nothing is added.
    """
    orders = {}
    for column, classes in classes_of_task(task, rows).items():
        plain = sorted({text for _, text in _cells(rows, column)})
        if classes != plain and not task.classes and task.positive not in classes:
            orders[column] = classes
    return orders


def _cells(rows: Sequence[SheetRow], column: str) -> list[tuple[str, str]]:
    """Slide and cell of the rows that have one."""
    return [(row.slide_id, row.labels[column]) for row in rows if column in row.labels]
