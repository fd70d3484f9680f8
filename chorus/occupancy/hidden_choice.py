"""What hidden votes should weigh, found from the counts themselves.

Masks are *modal* where they show what is seen of the object: behind the body there is then no mask, whether the object is there
or not, and hidden votes say nothing. They are *amodal* where they show the whole object (drawn by hand, or completed by a
model): hidden votes are then as good as others. The two are told apart where the object is. Over the voxels in which visible
votes make it at least half as probable as anywhere::

    rate_visible = sum num_visible / sum den_visible        rate_hidden = sum num_hidden / sum den_hidden

Amodal masks give equal rates, modal ones a rate of hidden votes near 0. Below a ratio of MODAL_BELOW hidden votes weigh
HIDDEN_WEIGHT, else 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chorus.errors import InputError
from chorus.occupancy.hidden import HIDDEN_WEIGHT

if TYPE_CHECKING:
    from chorus.occupancy.counts import Occupancy

MODAL_BELOW = 0.5
"""Masks are taken to be modal where hidden votes are on the mask less than this times as often as visible ones."""
PROBABLE = 0.5
"""The voxels looked at are those with this share of the largest phi of visible votes, or more."""
EVIDENCE = 0.05
"""Voxels seen by fewer images than this share of the most are not looked at."""


@dataclass(frozen=True)
class HiddenChoice:
    """The weight chosen, and why.

    weight        of hidden votes: HIDDEN_WEIGHT or 1        share         of the votes where the object is that are hidden
    visible_rate  how often visible votes are on the mask    hidden_rate   how often hidden votes are; None without any
    """

    weight: float
    visible_rate: float
    hidden_rate: float | None
    share: float

    @property
    def modal(self) -> bool:
        """Whether masks were found to show only what is seen of the object."""
        return self.weight < 1

    @property
    def reason(self) -> str:
        """Why, in a few words."""
        if self.hidden_rate is None:
            return "no vote where the object is was hidden"
        return f"masks show {'what is seen of the object' if self.modal else 'the whole object, also behind the body'}"

    def __str__(self) -> str:
        """One line: the weight and the rates that it follows from."""
        if self.hidden_rate is None:
            return f"{self.weight:g} ({self.reason})"
        return (
            f"{self.weight:g} ({self.reason}: of votes where it is, {self.hidden_rate:.0%} of the hidden and "
            f"{self.visible_rate:.0%} of the visible ones are on the mask)"
        )

    def to_json(self) -> dict[str, Any]:
        """The choice as a dictionary for JSON."""
        return asdict(self)


def choose_hidden_weight(occupancy: Occupancy) -> HiddenChoice:
    """What hidden votes should weigh in an occupancy that has counts of them. InputError for one without."""
    if occupancy.num_hidden is None or occupancy.den_hidden is None:
        raise InputError("hidden_weight: expected an occupancy with counts of hidden votes (aggregate with hidden_weight)")
    num, den, num_hidden, den_hidden = (
        counts.sum(0, dtype=np.int64)
        for counts in (occupancy.num_counts, occupancy.den_counts, occupancy.num_hidden, occupancy.den_hidden)
    )
    num, den = num - num_hidden, den - den_hidden
    seen = den > EVIDENCE * den.max(initial=0)
    phi = np.divide(num, den, out=np.zeros(den.shape), where=seen)
    where = seen & (phi >= PROBABLE * phi.max(initial=0.0))
    on, votes, on_hidden, hidden = (int(counts[where].sum()) for counts in (num, den, num_hidden, den_hidden))
    if not hidden or not on:
        return HiddenChoice(1.0, on / max(1, votes), None, 0.0)
    visible_rate, hidden_rate = on / votes, on_hidden / hidden
    weight = HIDDEN_WEIGHT if hidden_rate < MODAL_BELOW * visible_rate else 1.0
    return HiddenChoice(weight, visible_rate, hidden_rate, hidden / (hidden + votes))


def weigh_hidden(occupancy: Occupancy, weight: float | str) -> Occupancy:
    """The occupancy with hidden votes weighing what is asked for, a number or "auto"; its provenance says what, and why.

    InputError for an occupancy without counts of hidden votes and another weight than 1.
    """
    told: dict[str, Any] = {"hidden_rule": occupancy.hidden_rule}
    if isinstance(weight, str):
        choice = choose_hidden_weight(occupancy)
        weight = choice.weight
        told["hidden_choice"] = choice.to_json()
    entries = [{**entry, **told, "hidden_weight": weight} for entry in occupancy.provenance]
    return dataclasses.replace(occupancy.reweight(hidden_weight=weight), provenance=entries)
