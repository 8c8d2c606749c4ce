"""What a request to the local API may hold, and those answers that are nobody else's records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from client.answers import Standing
from client.behaviour import LONGEST_ID
from client.consent import Consent
from client.vault import Summary

MOST_EVENTS: Final = 10_000  # a request
ItemId = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]


class Said(BaseModel):
    """Base of what a request may hold: nothing unknown, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SaidEvent(Said):
    """Something the person did."""

    item: ItemId
    kind: Literal["view", "purchase", "rating", "dwell", "not_interested"]
    time: float | None = Field(None, ge=0, description="unix seconds; none = now")
    dwell: float = Field(0.0, ge=0, le=1, description="time spent, 0 to 1 of the longest")
    rating: float | None = Field(None, ge=0, le=1, description="0 to 1; none = not rated")


class SaidEvents(Said):
    """Events, stored all or none."""

    events: Annotated[list[SaidEvent], Field(min_length=1, max_length=MOST_EVENTS)]


class ToForget(Said):
    """What to forget: exactly one of the three, so that an empty request forgets nothing."""

    everything: bool = False
    items: Annotated[list[ItemId], Field(min_length=1, max_length=MOST_EVENTS)] | None = None
    before: float | None = Field(None, ge=0, description="unix seconds; what is older is forgotten")

    @model_validator(mode="after")
    def _one(self) -> ToForget:
        if sum((self.everything, self.items is not None, self.before is not None)) != 1:
            raise ValueError("name exactly one of everything, items, before")
        return self


@dataclass(frozen=True)
class Recorded:
    """How many events are on disk now."""

    stored: int


@dataclass(frozen=True)
class Status:
    """How the device stands, and what is stored on it."""

    taking_part: bool
    device: Standing
    stored: Summary


@dataclass(frozen=True)
class ConsentSaid:
    """This device's consent; None and why where there is none that counts."""

    consent: Consent | None
    why_not: str
