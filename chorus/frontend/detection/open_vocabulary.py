"""Any category by its name: a text-prompted detector finds boxes, SAM their masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit
from chorus.frontend.detection.boxes import MOST_PICTURES, by_confidence, of_one_size, refuse_person, same_name
from chorus.frontend.detection.sam import Sam
from chorus.frontend.pretrained import each_model, load_pretrained
from chorus.frontend.stages import PERSON, Instances, Picture, Runtime

_BYTES_PER_PICTURE = 1 << 30
"""A rough figure of the memory for one picture, beside the weights. It only sets the first batch's size."""

_DINO_THRESHOLD, _OWL_THRESHOLD = 0.35, 0.2
"""Least scores of boxes where none is set."""

_Boxes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]
"""Boxes (N, 4) x0, y0, x1, y1 in pixels, scores (N,), and the index (N,) of the word that each box is of."""


class WordDetector(Protocol):
    """Finds boxes of what words name."""

    limit: BatchLimit

    def check(self, words: Sequence[str]) -> None:
        """InputError for words that the model cannot be given."""
        ...

    def boxes(self, pictures: Sequence[Picture], words: Sequence[str]) -> list[_Boxes]:
        """The boxes in each picture; the pictures have one size."""
        ...


def make_grounding_dino(model: str, runtime: Runtime) -> OpenVocabulary:
    """The stage ``grounding-dino-sam``; see docs/detection.md."""
    detector, masks = each_model(model, runtime, 2)
    return OpenVocabulary(GroundingDino(*detector), Sam(*masks))


def make_owlv2(model: str, runtime: Runtime) -> OpenVocabulary:
    """The stage ``owlv2-sam``; see docs/detection.md."""
    detector, masks = each_model(model, runtime, 2)
    return OpenVocabulary(Owlv2(*detector), Sam(*masks))


def check_grounding_dino(_model: str, runtime: Runtime, category: str | None) -> None:
    """InputError for a threshold out of bounds and a category that cannot be a phrase."""
    runtime.number("threshold", _DINO_THRESHOLD)
    if category is not None:
        refuse_person(category)
        _refuse_ends_of_phrases(category)


def check_owlv2(_model: str, runtime: Runtime, category: str | None) -> None:
    """InputError for a threshold out of bounds, and for people as a category."""
    runtime.number("threshold", _OWL_THRESHOLD)
    if category is not None:
        refuse_person(category)


class OpenVocabulary:
    """Detector of people and objects of any name: boxes and scores of a text-prompted model, masks of SAM.

    The boxes are those that the model scored, cut to the picture: a mask that leaks into the background must not move the crop
    of a person. A box without area, or for which SAM finds no pixel, is left out.
    """

    def __init__(self, detector: WordDetector, sam: Sam) -> None:
        self._detector, self._sam = detector, sam

    def check(self, category: str) -> None:
        refuse_person(category)
        self._detector.check((PERSON, same_name(category)))

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        words = (PERSON, same_name(category))
        found = of_one_size(pictures, lambda batch: self._detector.boxes(batch, words), self._detector.limit)
        found = [_inside(boxes, picture) for boxes, picture in zip(found, pictures, strict=True)]
        masks = self._sam.masks(pictures, [boxes for boxes, _, _ in found])
        labels = (PERSON, category)
        return [
            by_confidence(boxes, scores, [labels[i] for i in which], mask)
            for (boxes, scores, which), mask in zip(found, masks, strict=True)
        ]


class GroundingDino:
    """GroundingDINO, given the text "person. surfboard."

    The score of a box for a phrase is the mean of its scores for the phrase's tokens, as in its authors' evaluation on
    COCO; the largest, which is the rule of their demo, would take a tennis ball for a tennis racket. A box belongs to
    the phrase that it scores higher for, and is given where that is at least the threshold.
    """

    def __init__(self, model: str, runtime: Runtime) -> None:
        self._network, self._processor = load_pretrained(
            model, runtime, "GroundingDinoForObjectDetection", "GroundingDinoProcessor"
        )
        self._threshold = runtime.number("threshold", _DINO_THRESHOLD)
        self.limit = BatchLimit.of(runtime, _BYTES_PER_PICTURE, MOST_PICTURES)

    def check(self, words: Sequence[str]) -> None:
        tokenizer = self._processor.tokenizer
        for word in words:
            _refuse_ends_of_phrases(word)
            if tokenizer.unk_token in tokenizer.tokenize(word):
                raise InputError(f"category: expected words that the model knows, got {word!r}")
        tokens, room = len(tokenizer(_phrases(words), verbose=False)["input_ids"]), self._network.config.max_text_len
        if tokens > room:
            raise InputError(f"category: expected at most {room} tokens with {PERSON!r}, got {tokens} of {words[-1]!r}")

    def boxes(self, pictures: Sequence[Picture], words: Sequence[str]) -> list[_Boxes]:
        import torch

        inputs = self._processor(
            images=[picture.pixels for picture in pictures],
            text=[_phrases(words)] * len(pictures),
            return_tensors="pt",
            input_data_format="channels_last",
        )
        inputs = inputs.to(self._network.device, self._network.dtype)
        with torch.inference_mode():
            outputs = self._network(**inputs)
        tokens = outputs.logits.float().sigmoid()
        ids = inputs["input_ids"][0].tolist()
        scores = torch.stack([tokens[..., span].mean(-1) for span in self._spans(ids, len(words))], -1)
        return [
            _above(scores[i], outputs.pred_boxes[i].float(), picture.size, self._threshold)
            for i, picture in enumerate(pictures)
        ]

    def _spans(self, ids: Sequence[int], count: int) -> list[list[int]]:
        """The positions of each phrase's tokens."""
        tokenizer = self._processor.tokenizer
        dot = tokenizer.convert_tokens_to_ids(".")
        spans: list[list[int]] = [[]]
        for place, number in enumerate(ids):
            if number == dot:
                spans.append([])
            elif number not in tokenizer.all_special_ids:
                spans[-1].append(place)
        return spans[:count]


class Owlv2:
    """OWLv2, given "a photo of a person" and "a photo of a surfboard"; a box belongs to the caption it scores higher for."""

    def __init__(self, model: str, runtime: Runtime) -> None:
        self._network, self._processor = load_pretrained(model, runtime, "Owlv2ForObjectDetection", "Owlv2Processor")
        self._threshold = runtime.number("threshold", _OWL_THRESHOLD)
        self.limit = BatchLimit.of(runtime, _BYTES_PER_PICTURE, MOST_PICTURES)

    def check(self, words: Sequence[str]) -> None:
        tokenizer, room = self._processor.tokenizer, self._network.config.text_config.max_position_embeddings
        for text in _captions(words):
            tokens = len(tokenizer(text, verbose=False)["input_ids"])
            if tokens > room:
                raise InputError(f"category: expected at most {room} tokens, got {tokens} of {text!r}")

    def boxes(self, pictures: Sequence[Picture], words: Sequence[str]) -> list[_Boxes]:
        import torch

        inputs = self._processor(
            images=[picture.pixels for picture in pictures],
            text=[_captions(words)] * len(pictures),
            return_tensors="pt",
            images_kwargs={"input_data_format": "channels_last"},
        )
        inputs = inputs.to(self._network.device, self._network.dtype)
        with torch.inference_mode():
            outputs = self._network(**inputs)
        scores = outputs.logits.float().sigmoid()
        # The processor pads pictures to squares at the right or below: boxes are in units of the longer side.
        return [
            _above(scores[i], outputs.pred_boxes[i].float(), (max(picture.size),) * 2, self._threshold)
            for i, picture in enumerate(pictures)
        ]


def _above(scores: Any, boxes: Any, size: tuple[int, int], threshold: float) -> _Boxes:
    """The boxes whose best score reaches the threshold.

    scores  (Q, words)      boxes  (Q, 4) centre x, y, width, height in units of ``size``, height and width in pixels
    """
    best, which = scores.max(-1)
    kept = best >= threshold
    height, width = size
    centre, extent = boxes[kept].cpu().numpy().reshape(-1, 2, 2).swapaxes(0, 1)
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], 1) * np.array([width, height] * 2, np.float32)
    return corners.astype(np.float32), best[kept].cpu().numpy(), which[kept].cpu().numpy()


def _inside(found: _Boxes, picture: Picture) -> _Boxes:
    """Boxes cut to the picture, without those that have no area."""
    boxes, scores, which = found
    height, width = picture.size
    boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    some = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return boxes[some], scores[some], which[some]


def _phrases(words: Sequence[str]) -> str:
    return " ".join(f"{word}." for word in words)


def _captions(words: Sequence[str]) -> list[str]:
    return [f"a photo of a {word}" for word in words]


def _refuse_ends_of_phrases(word: str) -> None:
    """InputError for what GroundingDINO would take for the end of a phrase: a dot and, by its rule, a question mark."""
    if "." in word or "?" in word:
        raise InputError(f"category: expected words without dots or question marks, got {word!r}")
