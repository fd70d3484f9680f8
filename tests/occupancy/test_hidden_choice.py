"""What hidden votes should weigh, found from counts."""

import dataclasses

import numpy as np
import pytest

from chorus.camera.views import Scheme
from chorus.errors import InputError
from chorus.field import FieldParameters
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.hidden_choice import HiddenChoice, choose_hidden_weight, weigh_hidden

N, OBJECT = 4, np.s_[1, 1:3, 2]
SCHEME = Scheme("azimuth")


def occupancy(hidden_on: int, hidden: int = 100) -> Occupancy:
    """800 visible votes for each voxel, 600 on the object's two voxels, 8 elsewhere; ``hidden`` more in those two."""
    counts = np.zeros((4, SCHEME.num_groups, N, N, N), np.int64)
    num, den, num_hidden, den_hidden = counts
    den[:] = 800
    num[:] = 8
    num[(slice(None), *OBJECT)] = 600
    for total, part, votes in ((num, num_hidden, hidden_on), (den, den_hidden, hidden)):
        part[(slice(None), *OBJECT)] = votes
        total += part
    images = np.full(SCHEME.num_groups, 900, np.int64)
    return Occupancy(
        *counts[:2],
        group_totals=images,
        group_images=images,
        scheme=SCHEME,
        weighting="azimuth",
        parameters=FieldParameters(N),
        body_hash="b",
        provenance=[{"source": "made"}],
        num_hidden=num_hidden,
        den_hidden=den_hidden,
    )


@pytest.mark.parametrize(("hidden_on", "weight"), [(75, 1.0), (60, 1.0), (38, 1.0), (37, 0.1), (5, 0.1), (0, 0.1)])
def test_masks_behind_the_body(hidden_on: int, weight: float) -> None:
    """Visible votes are on the mask 75 times in 100: with half as often or more among the hidden ones masks are whole."""
    choice = choose_hidden_weight(occupancy(hidden_on))
    assert choice == HiddenChoice(weight, 0.75, hidden_on / 100, 100 / 900)
    assert choice.modal == (weight < 1)
    assert f"{hidden_on}% of the hidden and 75% of the visible" in str(choice)


def test_nothing_hidden_where_the_object_is() -> None:
    choice = choose_hidden_weight(occupancy(0, hidden=0))
    assert (choice.weight, choice.hidden_rate) == (1.0, None)
    assert "no vote where the object is was hidden" in str(choice)


def test_voxels_that_few_images_saw_do_not_count() -> None:
    made = occupancy(75)
    for counts, value in ((made.num_counts, 8), (made.den_counts, 10)):  # always on the mask, and seen by 1 % of the images
        counts[:, 0, 0, 0] = value
    assert choose_hidden_weight(made) == choose_hidden_weight(occupancy(75))


def test_weighing_changes_phi_and_the_record_alone() -> None:
    made = occupancy(5)
    weighed = weigh_hidden(made, "auto")
    assert weighed.hidden_weight == 0.1
    assert weighed.provenance[0]["hidden_choice"]["hidden_rate"] == 0.05
    assert "hidden_choice" not in made.provenance[0]
    assert weighed.num_counts is made.num_counts
    expected = (600 + 0.1 * 5) / (800 + 0.1 * 100)
    np.testing.assert_allclose(weighed.probability[OBJECT], expected, rtol=1e-6)
    assert weigh_hidden(made, 0.3).provenance[0]["hidden_weight"] == 0.3
    none = dataclasses.replace(made, num_hidden=None, den_hidden=None)
    with pytest.raises(InputError, match="expected an occupancy with counts of hidden votes"):
        weigh_hidden(none, "auto")
