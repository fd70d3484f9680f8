"""Mask2Former: instances in our types, units and order, at the resolution of pictures of any size."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit
from chorus.frontend.detection.boxes import boxes_of, by_confidence, find_category
from chorus.frontend.detection.mask2former import Mask2Former
from chorus.frontend.registry import make
from chorus.frontend.stages import ImageRequest, Picture, Runtime
from tests.frontend.tiny_vision import COCO_NAMES, pictures_of_many_kinds, tiny_mask2former, tiny_mask2former_that_finds

PERSON, BALL = 0, COCO_NAMES.index("sports ball")


def picture(height: int, width: int, key: str = "a") -> Picture:
    return Picture(ImageRequest(key, "A person holds a ball"), np.full((height, width, 3), 90, np.uint8))


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(
        "detector", f"mask2former={tiny_mask2former_that_finds(tmp_path_factory.mktemp('finder'))}", Runtime(batch_size=4)
    )


class Says:
    """In the place of the network: the same outputs for every picture, and what it was given."""

    def __init__(self, classes: torch.Tensor, masks: torch.Tensor) -> None:
        self.config = SimpleNamespace(id2label=dict(enumerate(COCO_NAMES)))
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._classes, self._masks = classes, masks
        self.given: list[tuple[int, ...]] = []

    def __call__(self, pixel_values: torch.Tensor) -> Any:
        self.given.append(tuple(pixel_values.shape))
        n = len(pixel_values)
        return SimpleNamespace(
            class_queries_logits=self._classes.expand(n, -1, -1), masks_queries_logits=self._masks.expand(n, -1, -1, -1)
        )


def processor(**settings: Any) -> Any:
    from transformers import Mask2FormerImageProcessorPil

    return Mask2FormerImageProcessorPil(**{"size": {"height": 64, "width": 64}, "size_divisor": 32, **settings})


def outputs(*queries: tuple[dict[int, float], NDArray[np.bool_]], sure: float = 30.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of queries that give classes these probabilities, the rest to no object, and have these masks (16, 16)."""
    classes = torch.full((len(queries), len(COCO_NAMES) + 1), -40.0)
    for i, (probabilities, _) in enumerate(queries):
        for number, probability in probabilities.items():
            classes[i, number] = float(np.log(probability))
        classes[i, -1] = float(np.log(max(1 - sum(probabilities.values()), 1e-12)))
    masks = torch.from_numpy(np.stack([np.where(mask, sure, -sure) for _, mask in queries])).float()
    return classes, masks


def block(y0: int, y1: int, x0: int, x1: int, side: int = 16) -> NDArray[np.bool_]:
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_masks_boxes_scores_and_order_at_the_size_of_the_picture() -> None:
    network = Says(
        *outputs(
            ({PERSON: 0.7}, block(2, 14, 4, 8)),
            ({BALL: 0.9}, block(6, 9, 7, 12)),
            ({2: 0.99}, block(0, 16, 0, 16)),
            ({PERSON: 0.49, BALL: 0.2}, block(0, 4, 0, 4)),
            ({BALL: 0.95}, block(0, 0, 0, 0)),
        )
    )
    stage = Mask2Former(network, processor(), 0.5, BatchLimit(8))
    sizes = [(64, 64), (128, 96), (64, 64), (48, 160), (128, 96)]
    found = stage.detect([picture(*size) for size in sizes], "Sports Ball")
    for (height, width), instances in zip(sizes, found, strict=True):
        assert instances.labels == ("Sports Ball", "person")  # as asked for, most confident first; another class, the unsure
        assert instances.scores == pytest.approx([0.9, 0.7], abs=5e-3)  # and the empty are left out
        assert instances.masks.shape == (2, height, width)
        step = np.array([width, height] * 2) / 16
        # Bilinear edges cut at zero lie on the edges of the cells, to the pixel.
        np.testing.assert_allclose(instances.boxes, np.array([[7, 6, 12, 9], [4, 2, 8, 14]]) * step, atol=0.51)
        np.testing.assert_array_equal(instances.boxes, boxes_of(instances.masks))
    # One batch for each size, so nothing is padded.
    assert sorted(network.given) == [(1, 3, 64, 64), (2, 3, 64, 64), (2, 3, 64, 64)]


@pytest.mark.parametrize(("threshold", "count"), [(0.4, 2), (0.5, 1), (0.71, 0)])
def test_threshold(threshold: float, count: int) -> None:
    network = Says(*outputs(({PERSON: 0.7}, block(2, 14, 4, 8)), ({BALL: 0.45}, block(6, 9, 7, 12))))
    (found,) = Mask2Former(network, processor(), threshold, BatchLimit(8)).detect([picture(40, 30)], "sports ball")
    assert len(found) == count
    assert found.masks.shape == (count, 40, 30)
    assert found.boxes.dtype == found.scores.dtype == np.float32


def test_score_counts_the_mask_too() -> None:
    # Pixels that are on with probability sigmoid(1) = 0.73.
    network = Says(*outputs(({PERSON: 0.9}, block(0, 16, 0, 16)), sure=1.0))
    (found,) = Mask2Former(network, processor(), 0.5, BatchLimit(8)).detect([picture(64, 64)], "kite")
    assert found.scores == pytest.approx([0.9 * 0.7311], abs=1e-3)


def test_one_query_can_be_both() -> None:
    network = Says(*outputs(({PERSON: 0.5, BALL: 0.4}, block(2, 14, 4, 8))))
    (found,) = Mask2Former(network, processor(), 0.3, BatchLimit(8)).detect([picture(64, 64)], "sports ball")
    assert found.labels == ("person", "sports ball")


def test_padding_to_a_fixed_size_is_no_part_of_the_picture() -> None:
    # The picture fills the left half and the upper three quarters of what the network sees.
    network = Says(*outputs(({PERSON: 0.9}, block(6, 12, 4, 8))))
    padding = processor(size={"height": 96, "width": 64}, pad_size={"height": 128, "width": 128})
    (found,) = Mask2Former(network, padding, 0.5, BatchLimit(8)).detect([picture(120, 80)], "kite")
    np.testing.assert_allclose(found.boxes, [[40, 60, 80, 120]], atol=0.51)


def test_agrees_with_the_library_but_for_its_coarse_masks(finder: Any) -> None:
    """Same labels and scores as the library's post-processing, which cuts masks at 384 x 384 and takes every fourth pixel."""
    pictures = [Picture(ImageRequest(str(i), "p"), pixels) for i, pixels in enumerate(pictures_of_many_kinds(6, 96))]
    ours = finder.detect(pictures, "surfboard")
    network, prepare = finder._network, finder._processor
    with torch.inference_mode():
        raw = network(prepare(images=[p.pixels for p in pictures], return_tensors="pt")["pixel_values"])
    sizes = [p.size for p in pictures]
    theirs = prepare.post_process_instance_segmentation(raw, threshold=0.5, target_sizes=sizes, return_binary_maps=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other["segments_info"]) == 2
        for info, mask in zip(other["segments_info"], other["segmentation"].numpy() > 0, strict=True):
            i = mine.labels.index(network.config.id2label[info["label_id"]])
            assert mine.scores[i] == pytest.approx(info["score"], abs=0.01)
            assert (mine.masks[i] & mask).sum() / (mine.masks[i] | mask).sum() > 0.93


def test_the_finder_finds_one_of_each_in_any_picture(finder: Any) -> None:
    pixels = pictures_of_many_kinds(30, seed=77) + [p[:, :40] for p in pictures_of_many_kinds(6, 96, seed=78)]
    for found in finder.detect([Picture(ImageRequest(str(i), "p"), p) for i, p in enumerate(pixels)], "surfboard"):
        assert sorted(found.labels) == ["person", "surfboard"]
        assert (found.scores > 0.85).all()
        person, item = (found.boxes[found.labels.index(name)] for name in ("person", "surfboard"))
        shared = (np.minimum(person[2:], item[2:]) - np.maximum(person[:2], item[:2])).clip(0).prod()
        assert 0.2 < shared / (item[2:] - item[:2]).prod() < 1


def test_batches_and_neighbours_do_not_matter(finder: Any) -> None:
    pictures = [Picture(ImageRequest(str(i), "p"), p) for i, p in enumerate(pictures_of_many_kinds(5))]
    together = finder.detect([*pictures, picture(90, 50)], "surfboard")
    for one, among in zip(pictures, together[:5], strict=True):
        (alone,) = finder.detect([one], "surfboard")
        assert alone.labels == among.labels
        np.testing.assert_allclose(alone.scores, among.scores, atol=1e-5)
        assert (alone.masks ^ among.masks).sum() <= 2
    assert finder.detect([], "surfboard") == []


def test_a_detector_that_finds_nothing(tmp_path: Path) -> None:
    stage = make("detector", f"mask2former={tiny_mask2former(tmp_path)}", Runtime(options={"threshold": "0.999"}))
    found = stage.detect([picture(30, 50), picture(20, 20)], "kite")
    assert [f.masks.shape for f in found] == [(0, 30, 50), (0, 20, 20)]


def test_half_precision(finder: Any, tmp_path: Path) -> None:
    stage = make("detector", f"mask2former={tiny_mask2former_that_finds(tmp_path)}", Runtime(dtype="bfloat16"))
    pictures = [Picture(ImageRequest(str(i), "p"), p) for i, p in enumerate(pictures_of_many_kinds(3))]
    for half, exact in zip(stage.detect(pictures, "surfboard"), finder.detect(pictures, "surfboard"), strict=True):
        assert sorted(half.labels) == sorted(exact.labels)


def test_unknown_categories_name_near_ones(finder: Any) -> None:
    for known in ("surfboard", "Tennis Racket", "sports_ball"):
        finder.check(known)
    with pytest.raises(InputError, match=r"category: expected one of the 80 .* 'surfbord'; did you mean 'surfboard'"):
        finder.check("surfbord")
    with pytest.raises(InputError, match="did you mean 'sports ball'"):
        finder.check("ball")
    with pytest.raises(InputError, match="as person, bicycle"):
        finder.check("qqqq")
    with pytest.raises(InputError, match="expected a kind of object, got 'Person'"):
        finder.check("Person")
    with pytest.raises(InputError, match="expected one of the 2 of this model"):
        find_category("person", ["cat", "dog"], "this model")


def test_options_are_checked(tmp_path: Path) -> None:
    folder = tiny_mask2former(tmp_path)
    with pytest.raises(InputError, match=r"--set detector\.threshold: expected a number from 0 to 1, got '1\.5'"):
        make("detector", f"mask2former={folder}", Runtime(options={"threshold": "1.5"}))
    with pytest.raises(InputError, match="expected one of this stage's options"):
        make("detector", f"mask2former={folder}", Runtime(options={"size": "1"}))
    with pytest.raises(InputError, match="dtype: expected float32 or"):
        make("detector", f"mask2former={folder}", Runtime(dtype="int8"))


def test_boxes_of_masks() -> None:
    masks = np.zeros((4, 5, 7), bool)
    masks[0, 2, 3] = masks[1, :, :] = masks[2, 0, 6] = masks[2, 4, 1] = True
    assert boxes_of(masks).tolist() == [[3, 2, 4, 3], [0, 0, 7, 5], [1, 0, 7, 5], [0, 0, 0, 0]]
    assert boxes_of(np.zeros((0, 5, 7), bool)).shape == (0, 4)


def test_by_confidence_leaves_out_what_is_nothing() -> None:
    masks = np.ones((4, 2, 2), bool)
    masks[2] = False
    boxes = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 2, 1], [1, 1, 1, 2]], np.float32)
    found = by_confidence(boxes, np.array([0.3, 1.001, 0.9, 0.8], np.float32), list("abcd"), masks)
    assert found.labels == ("b", "a")
    assert found.scores.tolist() == pytest.approx([1.0, 0.3])
