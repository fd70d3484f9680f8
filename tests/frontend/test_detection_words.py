"""Detectors that are told words, with SAM: boxes, scores, labels and masks for pictures of differing sizes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from chorus.errors import InputError
from chorus.frontend.detection.sam import Sam
from chorus.frontend.registry import make
from chorus.frontend.stages import ImageRequest, Picture, Runtime
from tests.frontend.tiny_vision import pictures_of_many_kinds, tiny_grounding_dino, tiny_owlv2, tiny_sam

KINDS = ("grounding-dino-sam", "owlv2-sam")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("words")
    sam = tiny_sam(place / "sam")
    return {
        "sam": str(sam),
        "grounding-dino-sam": f"{tiny_grounding_dino(place / 'dino')},{sam}",
        "owlv2-sam": f"{tiny_owlv2(place / 'owl')},{sam}",
    }


def pictures(*sizes: tuple[int, int]) -> list[Picture]:
    noise = pictures_of_many_kinds(1, 160)[0]
    return [Picture(ImageRequest(str(i), "p"), noise[:height, :width]) for i, (height, width) in enumerate(sizes)]


@pytest.mark.parametrize("kind", KINDS)
def test_real_classes_of_random_weights(kind: str, folders: dict[str, str]) -> None:
    stage = make("detector", f"{kind}={folders[kind]}", Runtime(batch_size=2, options={"threshold": "0.51"}))
    stage.check("Tennis_Racket")
    given = pictures((64, 64), (128, 80), (64, 64), (50, 150), (64, 64))
    found = stage.detect(given, "Tennis_Racket")
    assert sum(len(f) for f in found) > 5
    for one, instances in zip(given, found, strict=True):
        height, width = one.size
        assert instances.masks.shape == (len(instances), height, width)
        assert instances.masks.any((1, 2)).all()
        assert set(instances.labels) <= {"person", "Tennis_Racket"}
        assert (np.diff(instances.scores) <= 0).all()
        assert (instances.scores >= 0.51).all()
        assert (instances.boxes >= 0).all()
        assert (instances.boxes <= [width, height, width, height]).all()
        # Neither the other pictures of the batch nor their boxes matter.
        (alone,) = stage.detect([one], "Tennis_Racket")
        np.testing.assert_allclose(alone.boxes, instances.boxes, atol=1e-3)
        assert (alone.masks ^ instances.masks).mean() < 0.01 if len(alone) else True
    assert len(make("detector", f"{kind}={folders[kind]}", Runtime(options={"threshold": "1"})).detect(given, "kite")[0]) == 0
    assert stage.detect([], "kite") == []


class Answers:
    """In the place of a detector's network: these logits and boxes for every picture."""

    def __init__(self, network: Any, logits: torch.Tensor, boxes: torch.Tensor) -> None:
        self.config, self.device, self.dtype = network.config, network.device, network.dtype
        self._logits, self._boxes = logits, boxes

    def __call__(self, pixel_values: torch.Tensor, **_: Any) -> Any:
        n = len(pixel_values)
        return SimpleNamespace(logits=self._logits.expand(n, -1, -1), pred_boxes=self._boxes.expand(n, -1, -1))


def logit(p: Any) -> torch.Tensor:
    return torch.logit(torch.as_tensor(p, dtype=torch.float32))


def test_scores_of_grounding_dino_are_means_over_a_phrase(folders: dict[str, str]) -> None:
    stage = make("detector", f"grounding-dino-sam={folders['grounding-dino-sam']}", Runtime())
    detector = stage._detector
    # Tokens: [CLS] person . tennis racket . [SEP]; a dot's score counts for nothing.
    tokens = torch.full((4, 32), 1e-6)
    tokens[0, 1] = 0.8
    tokens[1, 3], tokens[1, 4], tokens[1, 1] = 0.9, 0.5, 0.6
    tokens[2, 3], tokens[2, 4] = 0.6, 0.05  # as of a tennis ball: 0.325 on average
    tokens[3, 2] = 0.99
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.25, 0.75, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    detector._network = Answers(detector._network, logit(tokens), boxes)
    for one, found in zip(given := pictures((64, 64), (100, 60)), stage.detect(given, "tennis racket"), strict=True):
        height, width = one.size
        assert found.labels == ("person", "tennis racket")
        assert found.scores == pytest.approx([0.8, 0.7], abs=1e-4)
        expected = np.array([[0.25, 0, 0.75, 1], [0, 0.5, 0.5, 1]]) * [width, height, width, height]
        np.testing.assert_allclose(found.boxes, expected, atol=1e-3)


def test_boxes_of_owlv2_are_parts_of_the_longer_side(folders: dict[str, str]) -> None:
    stage = make("detector", f"owlv2-sam={folders['owlv2-sam']}", Runtime())
    detector = stage._detector
    scores = [[0.9, 0.1], [0.3, 0.6], [0.1, 0.19], [0.8, 0.1]]
    # The last one lies in the border that makes the picture square.
    boxes = torch.tensor([[0.25, 0.5, 0.3, 1.0], [0.4, 0.3, 0.4, 0.2], [0.3, 0.3, 0.1, 0.1], [0.9, 0.5, 0.1, 0.1]])
    detector._network = Answers(detector._network, logit(scores), boxes)
    (found,) = stage.detect(pictures((100, 60)), "kite")
    assert found.labels == ("person", "kite")
    assert found.scores == pytest.approx([0.9, 0.6], abs=1e-4)
    np.testing.assert_allclose(found.boxes, [[10, 0, 40, 100], [20, 20, 60, 40]], atol=1e-3)


def test_sam_is_given_boxes_and_gives_masks_at_the_size_of_the_picture(folders: dict[str, str]) -> None:
    sam = Sam(folders["sam"], Runtime(batch_size=3))
    seen: list[torch.Tensor] = []

    class Network:
        """Fills the boxes it is given, on a square of 64."""

        device, vision_encoder = torch.device("cpu"), sam._network.vision_encoder

        def __call__(self, image_embeddings: torch.Tensor, input_boxes: torch.Tensor, multimask_output: bool) -> Any:
            assert not multimask_output
            assert image_embeddings.dtype == input_boxes.dtype == torch.float32
            seen.append(input_boxes)
            place = torch.arange(16) * 4 + 2.0
            x0, y0, x1, y1 = input_boxes[..., None, None].unbind(2)
            on = (place >= x0) & (place < x1) & (place[:, None] >= y0) & (place[:, None] < y1)
            return SimpleNamespace(pred_masks=torch.where(on, 20.0, -20.0)[:, :, None])

    sam._network = Network()
    given = pictures((64, 64), (128, 64), (40, 160), (32, 32))
    boxes = [
        np.array([[8, 16, 40, 48]], np.float32),
        np.zeros((0, 4), np.float32),
        np.array([[20, 10, 100, 30], [0, 0, 160, 40]], np.float32),
        np.array([[4, 4, 12, 28]], np.float32),
    ]
    masks = sam.masks(given, boxes)
    assert [m.shape for m in masks] == [(1, 64, 64), (0, 128, 64), (2, 40, 160), (1, 32, 32)]
    assert [m.dtype for m in masks] == [np.bool_] * 4
    for own, mask, one in zip(boxes, masks, given, strict=True):
        for (x0, y0, x1, y1), m in zip(own, mask, strict=True):
            row, column = np.mgrid[: one.size[0], : one.size[1]] + 0.5
            wanted = (column > x0) & (column < x1) & (row > y0) & (row < y1)
            assert (m & wanted).sum() / (m | wanted).sum() > 0.85
    # The longer side becomes 64; the second box of the wide picture and its like are there, the padded ones are dropped.
    np.testing.assert_allclose(seen[0][1], [[8, 4, 40, 12], [0, 0, 64, 16]])
    assert seen[0].shape == (3, 2, 4)


def test_half_precision(folders: dict[str, str]) -> None:
    for kind in KINDS:
        stage = make("detector", f"{kind}={folders[kind]}", Runtime(dtype="bfloat16", options={"threshold": "0.4"}))
        (found,) = stage.detect(pictures((64, 64)), "kite")
        assert len(found) > 0


def test_words_that_cannot_be_told(folders: dict[str, str]) -> None:
    dino, owl = (make("detector", f"{kind}={folders[kind]}", Runtime()) for kind in KINDS)
    for stage in (dino, owl):
        stage.check("tennis racket")
        with pytest.raises(InputError, match="expected a kind of object"):
            stage.check("person")
    for wrong in ("kite. dog", "kite?", "zzz"):  # the last is no word of the tiny vocabulary
        with pytest.raises(InputError, match=r"expected words (without dots or question marks|that the model knows), got"):
            dino.check(wrong)
    with pytest.raises(InputError, match="at most 32 tokens"):
        dino.check("kite " * 40)
    with pytest.raises(InputError, match="at most 32 tokens"):
        owl.check("kite" * 20)


def test_two_models_are_named(folders: dict[str, str], tmp_path: Path) -> None:
    for wrong in ("one", "one,two,three", "one,"):
        with pytest.raises(InputError, match="expected 2 models, separated by commas, got"):
            make("detector", f"owlv2-sam={wrong}", Runtime())
    with pytest.raises(InputError, match="expected a model of type 'owlv2', got"):
        make("detector", f"owlv2-sam={folders['grounding-dino-sam']}", Runtime())
