"""What is trending, in a store of its own: it comes and goes with every publication, and no model waits for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from client.home import Home
from shared.errors import DataError
from shared.files import write_atomically


@dataclass(frozen=True)
class Trending:
    """The last release that this device was told of.

    Attributes:
        number: of the publication that said so.
        run, round: where it was counted.
        items: raw ids, hottest first.
    """

    number: int
    run: str
    round: int
    items: tuple[str, ...]


NOTHING_TRENDS = Trending(0, "", 0, ())


def write_trending(home: Home, trending: Trending) -> None:
    """Replace what is trending.

    Raises:
        OSError: the disk refuses; what was there stays.
    """
    write_atomically(home.trending, json.dumps(asdict(trending)).encode())


def read_trending(home: Home) -> Trending:
    """What is trending; nothing before anything was said.

    Raises:
        DataError: the file is damaged.
    """
    try:
        raw = json.loads(home.trending.read_bytes())
        return Trending(int(raw["number"]), str(raw["run"]), int(raw["round"]), tuple(map(str, raw["items"])))
    except FileNotFoundError:
        return NOTHING_TRENDS
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{home.trending}: not readable ({error}); remove it, the next publication writes it"
        ) from error
