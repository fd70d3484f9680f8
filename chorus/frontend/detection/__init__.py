"""Finding people and objects with boxes and masks (A.3).

``mask2former`` knows the categories of COCO; ``grounding-dino-sam`` and ``owlv2-sam`` take any category by its name;
``detectron2`` is the paper's; ``given`` looks up masks that are known already. Defaults, licences and how scores and boxes
come about: docs/detection.md.
"""

from __future__ import annotations

from chorus.frontend.stage_info import FRONTEND_EXTRA, REVISION, REVISIONS, StageInfo

_FOLDER = "a hub id, or a folder that save_pretrained wrote; the default: the Hugging Face hub"
_FOLDERS = "two hub ids or folders that save_pretrained wrote, DETECTOR,SAM; the default: the Hugging Face hub"

MASK2FORMER = "facebook/mask2former-swin-large-coco-instance"
"""The default model, which knows the categories of COCO."""

DETECTRON2_NEEDS = (
    "detectron2 is not on PyPI: install torch first, then build it from source with "
    "python -m pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)

STAGES: tuple[StageInfo, ...] = (
    StageInfo(
        kind="detector",
        name="mask2former",
        made_by="chorus.frontend.detection.mask2former:make",
        checked_by="chorus.frontend.detection.mask2former:check",
        requires=("transformers",),
        hub=("config.json",),
        what="instances of people and of the 80 categories of COCO by Mask2Former; boxes are those of the masks",
        model=MASK2FORMER,
        licence='code: transformers, Apache-2.0; weights: as their model card says (the default\'s says "other"; they were '
        "released beside code under the MIT licence and trained on COCO)",
        weights=_FOLDER,
        needs=FRONTEND_EXTRA,
        options=(("threshold", "least score of an instance (0.5)"), REVISION),
    ),
    StageInfo(
        kind="detector",
        name="grounding-dino-sam",
        made_by="chorus.frontend.detection.open_vocabulary:make_grounding_dino",
        checked_by="chorus.frontend.detection.open_vocabulary:check_grounding_dino",
        requires=("transformers",),
        hub=(
            "config.json",
            "config.json",
        ),
        what="any category by its name: boxes by GroundingDINO, their masks by SAM",
        model="IDEA-Research/grounding-dino-base,facebook/sam-vit-huge",
        licence="code: transformers, Apache-2.0; weights: both Apache-2.0, others as their model card says",
        weights=_FOLDERS,
        needs=FRONTEND_EXTRA,
        options=(("threshold", "least score of a box (0.35)"), REVISIONS),
    ),
    StageInfo(
        kind="detector",
        name="owlv2-sam",
        made_by="chorus.frontend.detection.open_vocabulary:make_owlv2",
        checked_by="chorus.frontend.detection.open_vocabulary:check_owlv2",
        requires=("transformers",),
        hub=(
            "config.json",
            "config.json",
        ),
        what="any category by its name: boxes by OWLv2, their masks by SAM",
        model="google/owlv2-base-patch16-ensemble,facebook/sam-vit-huge",
        licence="code: transformers, Apache-2.0; weights: both Apache-2.0, others as their model card says",
        weights=_FOLDERS,
        needs=FRONTEND_EXTRA,
        options=(("threshold", "least score of a box (0.2)"), REVISIONS),
    ),
    StageInfo(
        kind="detector",
        name="detectron2",
        made_by="chorus.frontend.detection.detectron2:make",
        checked_by="chorus.frontend.detection.detectron2:check",
        requires=("detectron2",),
        what="the paper's: PointRend for the categories of COCO, Mask R-CNN for those of LVIS; one picture at a time",
        model="COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml",
        licence="code: detectron2, Apache-2.0; weights of its model zoo: CC BY-SA 3.0",
        weights="CONFIG or CONFIG,WEIGHTS: a name of detectron2's model zoo, or a YAML file and a checkpoint, as for "
        "PointRend, whose files lie under projects/PointRend of detectron2's source; weights: dl.fbaipublicfiles.com",
        needs=DETECTRON2_NEEDS,
        options=(
            ("threshold", "least score of an instance (0.8 for LVIS as in A.3, 0.5 for COCO)"),
            ("objects", "CONFIG or CONFIG,WEIGHTS of a second model, for the category alone; people then by the first"),
        ),
    ),
    StageInfo(
        kind="detector",
        name="given",
        made_by="chorus.frontend.detection.given:make",
        checked_by="chorus.frontend.detection.given:check",
        what="masks that are known already: a COCO file (.json), a folder of one mask a picture (FOLDER/NAME.png), or one "
        "mask; of several people and objects the pair whose boxes overlap most. Pictures stay whole: --set images.crop=none",
        model="",
        local=True,
        licence="code: the project's, COCO's polygons by pycocotools, BSD-2-Clause; the masks: as their owner says",
        weights="the file or folder of the masks; people: BlazePose's detector, Apache-2.0, as of --humans blazepose",
        options=(
            (
                "people",
                "annotations: persons as the COCO file has them (default where it has any); blazepose: by BlazePose's "
                "detector, without masks",
            ),
            ("weights", "an archive with BlazePose's two models, instead of the fetched ones"),
            ("several", "pair (default); all: pictures with several people or objects are refused, as for test sets (B.1)"),
        ),
    ),
)
