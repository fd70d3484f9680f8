"""The paper's detectors: PointRend for the categories of COCO, Mask R-CNN for those of LVIS, by detectron2 (A.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from chorus.errors import InputError
from chorus.frontend.detection import DETECTRON2_NEEDS
from chorus.frontend.detection.boxes import by_confidence, find_category, refuse_person, same_name
from chorus.frontend.stages import PERSON, Instances, Picture, Runtime

_LVIS_THRESHOLD = 0.8
"""The score threshold of A.3 for LVIS."""
_COCO_THRESHOLD = 0.5
"""This project's choice: the paper names none for COCO."""


def make(model: str, runtime: Runtime) -> Detectron2:
    """The stage ``detectron2``; see docs/detection.md."""
    try:
        import detectron2  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{runtime.kind}: {error}; {DETECTRON2_NEEDS}") from error
    first = Predictor(model, runtime)
    objects = runtime.options.get("objects")
    return Detectron2(first, Predictor(objects, runtime) if objects else first)


def check(model: str, runtime: Runtime, category: str | None) -> None:
    """InputError for a threshold out of bounds, files that are not there, and people as a category."""
    runtime.number("threshold", _COCO_THRESHOLD)
    for text in (model, runtime.options.get("objects", "")):
        config, _, weights = (part.strip() for part in text.partition(","))
        for path in (config if os.path.isabs(os.path.expanduser(config)) else "", weights):
            if path and "://" not in path and not os.path.isfile(os.path.expanduser(path)):
                raise InputError(f"--{runtime.kind} detectron2: expected a file that exists, got {path!r}")
    if category is not None:
        refuse_person(category)


class Detectron2:
    """Detector on one or two models of detectron2: people by the first, the category by the same or by the second.

    Boxes, scores and masks are the model's: boxes are those that Mask R-CNN predicts, not those of the masks, cut to the
    picture; instances without pixels are left out. detectron2's predictor takes one picture at a time.
    """

    def __init__(self, persons: Predictor, objects: Predictor) -> None:
        self._persons, self._objects = persons, objects
        self._person = persons.number(PERSON)

    def check(self, category: str) -> None:
        refuse_person(category)
        self._objects.number(category)

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        number = self._objects.number(category)
        if self._objects is self._persons:
            wanted = {self._person: PERSON, number: category}
            return [_instances([self._persons(picture, wanted)]) for picture in pictures]
        return [
            _instances([self._persons(picture, {self._person: PERSON}), self._objects(picture, {number: category})])
            for picture in pictures
        ]


_Found = tuple[Any, Any, list[str], Any]


class Predictor:
    """One model of detectron2 and the names of what it finds.

    ``model`` is CONFIG or CONFIG,WEIGHTS. CONFIG is a name of the model zoo, as
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", or the path of a YAML file, as PointRend's, which is not packaged.
    WEIGHTS is a path or an address; without it they are the zoo's, or those that the file names.
    """

    def __init__(self, model: str, runtime: Runtime) -> None:
        from detectron2.config import get_cfg
        from detectron2.data import MetadataCatalog
        from detectron2.engine import DefaultPredictor

        config, _, weights = (part.strip() for part in model.partition(","))
        settings = get_cfg()
        try:
            self._merge(settings, config, weights)
        except (OSError, RuntimeError, KeyError, AssertionError, ValueError) as error:
            raise InputError(
                f"--{runtime.kind}: expected a name of detectron2's model zoo or a YAML file, got {config!r}: {error}"
            ) from error
        datasets = settings.DATASETS.TEST
        if not datasets:
            raise InputError(f"--{runtime.kind}: expected a configuration that names a dataset (DATASETS.TEST), got {config!r}")
        self._dataset: str = datasets[0]
        names = getattr(MetadataCatalog.get(self._dataset), "thing_classes", None)
        if not names:
            raise InputError(
                f"--{runtime.kind}: expected a dataset whose classes detectron2 knows, got {self._dataset!r} in {config!r}"
            )
        self.names = list(names)
        lvis = self._dataset.startswith("lvis")
        settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST = runtime.number("threshold", _LVIS_THRESHOLD if lvis else _COCO_THRESHOLD)
        settings.MODEL.DEVICE = runtime.device
        try:
            self._predict = DefaultPredictor(settings)
        except (OSError, RuntimeError, AssertionError, ValueError) as error:
            raise InputError(f"--{runtime.kind}: expected weights that can be loaded, got {model!r}: {error}") from error

    def number(self, category: str) -> int:
        """The index of a category among the model's classes. InputError, naming similar ones, where it has no such class."""
        if same_name(category) == PERSON and PERSON not in self.names and "baby" in self.names:
            # detectron2 names a class of LVIS by its first synonym: baby, child, boy, girl, man, woman, person, human.
            category = "baby"
        return find_category(category, self.names, self._dataset)

    def __call__(self, picture: Picture, wanted: dict[int, str]) -> _Found:
        """Boxes (N, 4), scores (N,), labels and masks (N, H, W) of the classes in ``wanted``, class index -> label."""
        blue_first = np.ascontiguousarray(picture.pixels[:, :, ::-1])
        found = self._predict(blue_first)["instances"].to("cpu")
        classes = found.pred_classes.numpy()
        rows = np.flatnonzero(np.isin(classes, list(wanted)))
        labels = [wanted[int(number)] for number in classes[rows]]
        height, width = picture.size
        boxes = np.clip(found.pred_boxes.tensor.detach().numpy()[rows], 0, np.array([width, height] * 2, np.float32))
        return boxes, found.scores.detach().numpy()[rows], labels, found.pred_masks.numpy()[rows]

    @staticmethod
    def _merge(settings: Any, config: str, weights: str) -> None:
        """Read the configuration and say where the weights are."""
        path = os.path.expanduser(config)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                if "POINT" in file.read().upper():  # PointRend's keys are unknown until they are added
                    from detectron2.projects.point_rend import add_pointrend_config

                    add_pointrend_config(settings)
            settings.merge_from_file(path)
        else:
            from detectron2 import model_zoo

            settings.merge_from_file(model_zoo.get_config_file(config))
            weights = weights or model_zoo.get_checkpoint_url(config)
        if weights:
            settings.MODEL.WEIGHTS = os.path.expanduser(weights)
        elif not settings.MODEL.WEIGHTS or "ImageNetPretrained" in settings.MODEL.WEIGHTS:
            # What training starts from. detectron2 would fill the rest with random numbers and only warn.
            raise ValueError("it names no weights of a detector; give them as CONFIG,WEIGHTS")


def _instances(parts: Sequence[_Found]) -> Instances:
    boxes, scores, masks = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 3))
    return by_confidence(
        boxes.astype(np.float32), scores.astype(np.float32), [name for part in parts for name in part[2]], masks
    )
