"""Items as an operator describes them: one by one, or in a CSV file.

    id,title,description,categories,available
    4711,Blue mug,"Holds tea, coffee, and the like",kitchen|gifts,yes

Only ``id`` and ``title`` are needed. A column ``text`` is what the encoder reads in place of title and description; the
categories are read behind either. Several categories are separated by ``|``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import DataError
from shared.tables import Table, read_csv, texts

COLUMNS: Final = ("id", "title", "text", "description", "categories", "available")
LONGEST_ID: Final = 200  # characters; what a publication names
_LONGEST: Final = 20_000  # characters of a title or a text
_YES: Final = ("", "1", "true", "yes")
_NO: Final = ("0", "false", "no")


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        id: raw id.
        title: what a person reads.
        text: what a text encoder reads.
        categories: possibly none.

    Raises:
        DataError: an id that is empty, too long, not printable or has blanks around it, an empty title, a text that is
            too long, or one that no file can hold.
    """

    id: str
    title: str
    text: str
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.id) <= LONGEST_ID or self.id != self.id.strip() or not self.id.isprintable():
            raise DataError(
                f"item id {self.id[:LONGEST_ID]!r}: it needs 1 to {LONGEST_ID} printable characters, no blanks around"
            )
        if not self.title.strip():
            raise DataError(f"item {self.id!r}: the title is empty; people read it")
        if max(len(self.title), len(self.text)) > _LONGEST:
            raise DataError(f"item {self.id!r}: title and text have at most {_LONGEST} characters each")
        try:  # what a terminal sends that is not UTF-8 is a text to Python, until it is written
            "".join((self.title, self.text, *self.categories)).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"item {self.id!r}: not UTF-8 text; set the terminal to UTF-8") from error


def described(name: str, title: str, description: str, categories: Sequence[str]) -> Item:
    """An item whose text is its title, its description and its categories, each once."""
    words = dict.fromkeys(part.strip() for part in (title, description) if part.strip())
    kinds = tuple(dict.fromkeys(categories))
    return Item(name, title.strip(), " ".join([*words, *kinds]), kinds)


def read_items(path: Path) -> tuple[list[Item], dict[str, bool]]:
    """A CSV file as above.

    Returns:
        The items in the order of the file; and id -> can be had, empty where the file has no such column.

    Raises:
        DataError: a column that is missing or unknown, an id twice, or a row that is no item; names ``file:line``.
    """
    table = read_csv(path)
    unknown = next((name for name in table.columns if name not in COLUMNS), None)
    if unknown is not None:
        raise DataError(f"{path}:1: column {unknown!r} is unknown; the columns are {', '.join(COLUMNS)}")
    ids, titles = texts(table, "id"), texts(table, "title")
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if first.setdefault(name, row) != row:
            line = table.lines[first[name]]
            raise DataError(f"{table.place(row)}: item {name!r} is there twice (first on line {line})")
    items = [_item(table, row, name, title) for row, (name, title) in enumerate(zip(ids, titles, strict=True))]
    if "available" not in table.columns:
        return items, {}
    return items, {name: _available(table, row) for row, name in enumerate(ids)}


def _item(table: Table, row: int, name: str, title: str) -> Item:
    cell = {column: values[row].strip() for column, values in table.columns.items()}
    parts = (part.strip() for part in cell.get("categories", "").split("|"))
    categories = tuple(dict.fromkeys(part for part in parts if part))
    try:
        if cell.get("text"):
            return Item(name, title, " ".join([cell["text"], *categories]), categories)
        return described(name, title, cell.get("description", ""), categories)
    except DataError as error:
        raise DataError(f"{table.place(row)}: {error}") from error


def _available(table: Table, row: int) -> bool:
    said = table.columns["available"][row].strip().lower()
    if said not in _YES + _NO:
        raise DataError(f"{table.place(row)}: available is {said!r}; it must be yes or no")
    return said in _YES
