"""Numbers with their nouns, long texts cut short."""

from __future__ import annotations

import pytest

from chorus.texts import counted, shortened


def test_counted() -> None:
    assert [counted(n, "view") for n in (0, 1, 2, 2000)] == ["0 views", "1 view", "2 views", "2,000 views"]
    assert counted(1, "category", "categories") == "1 category"
    assert counted(3, "category", "categories") == "3 categories"


@pytest.mark.parametrize("most", [5, 6, 20, 300])
def test_shortened(most: int) -> None:
    text = "a person\nholds " + "very " * 2000 + "long\ttexts"
    cut = shortened(text, most)
    assert len(cut) == most
    assert cut[0] == "a"
    assert cut.endswith("s")
    assert "..." in cut
    assert shortened("a\n b\t c", most) == "a b c"
