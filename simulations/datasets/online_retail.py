"""Online Retail I and II: an English gift wholesaler's invoices, 2009-12 to 2011-12.

Daqing Chen, UCI Machine Learning Repository, data sets 352 (doi:10.24432/C5BW33) and 502 (doi:10.24432/C5CG6D), CC BY
4.0. Data set 502 holds both years as one sheet each, so that it alone is fetched.

The preset reads two tidy tables: ``interactions.parquet`` (customer_id, stock_code, timestamp; a row a purchase line)
and ``items.csv`` (stock_code, description). ``tidy`` makes them from the official file.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.history import KINDS
from shared.tables import read_csv, texts
from simulations.datasets.dataset import Dataset, Items
from simulations.datasets.events import Events, aggregate, repeats_note
from simulations.datasets.xlsx import date_seconds, sheet_rows
from simulations.download import Say, install, scratch, silent
from simulations.fetch import ONLINE_RETAIL_LICENCE

CORE: Final = 5
_ANONYMOUS: Final = "0"
_WORKBOOK: Final = "online_retail_II.xlsx"
_SHEETS: Final = ("Year 2009-2010", "Year 2010-2011")
_COLUMNS: Final = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID")
# Products have five digits and perhaps letters; POST, DOT, BANK CHARGES, gift vouchers and the like are no products.
_PRODUCT: Final = re.compile(r"\d{5}[A-Za-z]*\Z")


def load_online_retail(folder: Path) -> Dataset:
    """Pairs at their first purchase time, count = purchase lines, then the 5-core.

    The tidy tables behind the reference numbers book the anonymous lines of the second year on customer 0; such a
    customer is kept, and said in a note.

    Raises:
        DataError: a table is missing or broken, or an unknown stock code.
    """
    customers, codes, time = _lines(folder / "interactions.parquet")
    table = read_csv(folder / "items.csv")
    ids, titles = texts(table, "stock_code"), texts(table, "description")
    index = {raw: i for i, raw in enumerate(ids)}
    unknown = next((code for code in dict.fromkeys(codes) if code not in index), None)
    if unknown is not None:
        raise DataError(f"{folder / 'interactions.parquet'}: stock_code {unknown!r} is not in items.csv")
    raw_users, user = np.unique(customers, return_inverse=True)
    n = len(user)
    events = Events(
        user=user.astype(np.int32),
        item=np.array([index[code] for code in codes], np.int32),
        kind=np.full(n, KINDS.index("purchase"), np.int8),
        count=np.ones(n, np.float32),
        dwell=np.zeros(n, np.float32),
        rating=np.full(n, np.nan, np.float32),
        time=time,
    )
    pairs = aggregate(events, len(ids))
    kept = k_core(pairs.user, pairs.item, CORE)
    notes = (*repeats_note(n, len(pairs.user)), _core_note(pairs, kept), *_anonymous_note(customers))
    return _dataset(pairs, kept, users=[str(raw) for raw in raw_users], ids=ids, titles=titles, notes=notes)


def k_core(user: NDArray[np.int32], item: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """(rows,) the largest set of pairs in which every user and every item has at least k rows."""
    kept = np.ones(len(user), np.bool_)
    while True:
        users, items = np.bincount(user[kept], minlength=1), np.bincount(item[kept], minlength=1)
        users, items = np.pad(users, (0, int(user.max(initial=0)))), np.pad(items, (0, int(item.max(initial=0))))
        fewer = kept & (users[user] >= k) & (items[item] >= k)
        if fewer.sum() == kept.sum():
            return kept
        kept = fewer


def tidy(archive: Path, target: Path, say: Say = silent) -> None:
    """From the official zip to the two tidy tables; takes some minutes.

    Dropped: cancelled invoices (C...), lines without a customer, codes that are no product, and quantities or prices
    of zero or less. Both years hold 1 to 9 December 2010; these lines are taken from the second. A product's
    description is its most frequent one.

    Raises:
        DataError: the archive is not the expected one.
    """
    import pyarrow as pa  # noqa: PLC0415 - heavy import
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy import

    lines = list(_official_lines(archive, say))
    described: dict[str, Counter[str]] = {}
    for line in lines:
        described.setdefault(line.stock_code, Counter())[line.description] += 1
    with scratch(target.parent) as folder:
        made = folder / "made"
        made.mkdir()
        columns = {
            "invoice": [line.invoice for line in lines],
            "customer_id": pa.array([line.customer for line in lines], pa.int64()),
            "stock_code": [line.stock_code for line in lines],
            "timestamp": pa.array([int(line.time * 1e6) for line in lines], pa.timestamp("us")),
        }
        pq.write_table(pa.table(columns), made / "interactions.parquet")
        with (made / "items.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("stock_code", "description"))
            writer.writerows((code, described[code].most_common(1)[0][0]) for code in sorted(described))
        install(made, target)
    say(f"Online Retail: {len(lines):,} purchase lines of {len(described):,} products in {target}")


@dataclass(frozen=True)
class _Line:
    invoice: str
    customer: int
    stock_code: str
    description: str
    time: float


def _official_lines(archive: Path, say: Say) -> Iterator[_Line]:
    try:
        with zipfile.ZipFile(archive) as opened:
            workbook = io.BytesIO(opened.read(_WORKBOOK))
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{archive}: not the Online Retail II archive ({error}); delete it and try again") from error
    second_year = date_seconds("40513")  # 2010-12-01
    for sheet in _SHEETS:
        say(f"Reading sheet {sheet!r} of {_WORKBOOK} (about a minute)")
        rows = sheet_rows(workbook, sheet)
        header = next(rows, [])
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise DataError(f"{archive}: sheet {sheet!r} has no column {missing[0]!r}; it has {', '.join(header)}")
        places = [header.index(name) for name in _COLUMNS]
        for row in rows:
            line = _line([row[place] if place < len(row) else "" for place in places])
            if line is not None and (sheet == _SHEETS[1] or line.time < second_year):
                yield line


def _line(fields: list[str]) -> _Line | None:
    invoice, code, description, quantity, date, price, customer = (field.strip() for field in fields)
    if invoice.upper().startswith("C") or not customer or not description or not _PRODUCT.match(code):
        return None
    if float(quantity) <= 0 or float(price) <= 0:
        return None
    return _Line(invoice, int(float(customer)), code.upper(), description, date_seconds(date))


def _lines(path: Path) -> tuple[NDArray[np.int64], list[str], NDArray[np.float64]]:
    import pyarrow as pa  # noqa: PLC0415 - heavy import
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy import

    try:
        table = pq.read_table(path, columns=["customer_id", "stock_code", "timestamp"])
        customers = table["customer_id"].to_numpy().astype(np.int64)
        seconds = table["timestamp"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() / 1e6
        codes: list[str] = table["stock_code"].to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not the tidy purchase lines ({error})") from error
    if len(customers) == 0:
        raise DataError(f"{path}: no rows; at least one is needed")
    return customers, codes, seconds


def _core_note(pairs: Events, kept: NDArray[np.bool_]) -> str:
    users, items = len(np.unique(pairs.user[kept])), len(np.unique(pairs.item[kept]))
    return f"{CORE}-core: {int(kept.sum()):,} of {len(kept):,} pairs, {users:,} customers and {items:,} products remain"


def _anonymous_note(customers: NDArray[np.int64]) -> tuple[str, ...]:
    anonymous = int((customers == int(_ANONYMOUS)).sum())
    if not anonymous:
        return ()
    return (f"customer 0 stands for {anonymous:,} anonymous purchase lines; it is kept as one user",)


def _dataset(
    pairs: Events,
    kept: NDArray[np.bool_],
    *,
    users: list[str],
    ids: list[str],
    titles: list[str],
    notes: tuple[str, ...],
) -> Dataset:
    users_left, user = np.unique(pairs.user[kept], return_inverse=True)
    items_left, item = np.unique(pairs.item[kept], return_inverse=True)
    names = tuple(titles[i] for i in items_left)
    return Dataset(
        name="online-retail",
        licence=ONLINE_RETAIL_LICENCE,
        public=True,
        items=Items(tuple(ids[i] for i in items_left), names, names, ((),) * len(names)),
        users=tuple(users[i] for i in users_left),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        kind=pairs.kind[kept],
        count=pairs.count[kept],
        dwell=pairs.dwell[kept],
        rating=pairs.rating[kept],
        time=pairs.time[kept],
        notes=notes,
    )
