"""What a store takes for each generated image (``python -m bench.frontend``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.frontend import measure


def test_a_rejected_image_takes_a_row_and_a_kept_one_its_mask_besides(tmp_path: Path) -> None:
    found = measure(400, 64, 16, tmp_path)
    assert found["images"] == 400
    assert 0 < found["kept"] < 400
    # numbers of a row by the format: camera, pose, scores, 17 keypoints, box, ...; keys, words and the file's own besides
    assert 600 < found["bytes_rejected"] < 900
    assert found["bytes_kept"] == pytest.approx(found["bytes_rejected"] + found["bytes_mask"], abs=0.2)  # each is rounded
    assert 32 <= found["bytes_mask"] <= 512  # one block to all sixteen of an image of 64 pixels
    assert found["table_3"]["images"] == 776_424
    assert found["table_3"]["gigabytes"] < 5  # published: 5,000
