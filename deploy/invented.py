"""An invented catalogue and invented people, for a deployment that is shown."""

from __future__ import annotations

import csv
import random
import time
from pathlib import Path
from typing import Final

GENRES: Final = ("garden", "kitchen", "music", "travel", "history", "science")
WORDS: Final = {
    "garden": "soil seed rose hedge spade compost bloom herb",
    "kitchen": "oven knife dough spice pan broth recipe bread",
    "music": "cello tempo choir chord opera drum melody reed",
    "travel": "harbour train map island border coach desert peak",
    "history": "empire treaty archive castle revolt dynasty ruin trade",
    "science": "orbit enzyme prism fossil quark lens lattice tide",
}
DEFAULTS: Final = {
    "model.text_encoder": "none",
    "privacy.epsilon": "8",
    "privacy.delta": "1e-3",
    "cohort.smallest": "0.6",
    "cohort.deadline": "45",
    "policy.measure_every": "2",
}
# Five people are a demonstration: so small a cohort hides nobody well, and each of them says here that it may.
CONSENT: Final = (
    "smallest_cohort=3",
    "smallest_noise=0.01",
    "epsilon_per_round=40",
    "epsilon_per_period=40",
    "epsilon_lifetime=40",
)


def write_items(path: Path, count: int = 120) -> None:
    """A small catalogue whose texts mean something."""
    chance = random.Random(0)  # invented items, the same every time
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title", "description", "categories", "available"])
        for number in range(count):
            genre = GENRES[number % len(GENRES)]
            words = chance.sample(WORDS[genre].split(), 4)
            writer.writerow([f"i{number:03d}", f"{genre.title()} {number}", " ".join(words), genre, "yes"])


def write_events(path: Path, person: int, count: int = 40) -> None:
    """What one invented person did: mostly two genres."""
    chance = random.Random(person + 1)  # invented people
    liked = (person % len(GENRES), (person + 2) % len(GENRES))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "kind", "time", "dwell", "rating"])
        for number in range(count):
            genre = chance.choice(liked) if chance.random() < 0.85 else chance.randrange(len(GENRES))
            item = chance.randrange(20) * len(GENRES) + genre
            kind = chance.choice(["view", "purchase", "view"])
            writer.writerow([f"i{item:03d}", kind, int(time.time()) - 86_400 * 30 + number * 3600, "", ""])
