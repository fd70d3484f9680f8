"""Finding the 17 keypoints of COCO of a person in the image (A.3).

``vitpose`` is a current model of transformers; ``mmpose`` runs the paper's, HRNet with DARK. docs/detection.md says more.
"""

from __future__ import annotations

from chorus.frontend.stage_info import (
    BLAZEPOSE_EXTRA,
    BLAZEPOSE_LICENCE,
    BLAZEPOSE_WEIGHTS,
    FRONTEND_EXTRA,
    REVISION,
    StageInfo,
)

MMPOSE_NEEDS = 'pip install "mmpose>=1.3" "mmengine>=0.10" "mmcv>=2.0.1"; mmcv and chumpy are hard to build on current Pythons'

STAGES: tuple[StageInfo, ...] = (
    StageInfo(
        kind="keypoints",
        name="vitpose",
        made_by="chorus.frontend.keypoints.vitpose:make",
        checked_by="chorus.frontend.keypoints.vitpose:check",
        requires=("transformers",),
        hub=("config.json",),
        what="ViTPose, decoded with DARK",
        model="usyd-community/vitpose-base-simple",
        licence="code: transformers, Apache-2.0; weights: Apache-2.0, others as their model card says",
        weights="a hub id, or a folder that save_pretrained wrote; the default: the Hugging Face hub",
        needs=FRONTEND_EXTRA,
        options=(
            ("dataset", "number of the expert of a ViTPose++ model, a mixture trained on several data sets (0: COCO's)"),
            REVISION,
        ),
    ),
    StageInfo(
        kind="keypoints",
        name="mmpose",
        made_by="chorus.frontend.keypoints.mmpose:make",
        checked_by="chorus.frontend.keypoints.mmpose:check",
        requires=("mmpose",),
        what="the paper's: HRNet-w48 with DARK at 384 x 288, or any top-down model of mmpose for COCO's keypoints",
        model="",
        licence="code: mmpose, Apache-2.0; weights of its model zoo: Apache-2.0",
        weights="a checkpoint of td-hm_hrnet-w48_dark-8xb32-210e_coco-384x288 from mmpose's model zoo "
        "(download.openmmlab.com), or CONFIG,CHECKPOINT",
        needs=MMPOSE_NEEDS,
    ),
    StageInfo(
        kind="keypoints",
        name="blazepose",
        made_by="chorus.frontend.blazepose.stages:make_keypoints",
        checked_by="chorus.frontend.blazepose.stages:check",
        requires=("ai_edge_litert",),
        what="17 of BlazePose's landmarks (MediaPipe), on any processor",
        model="full",
        licence=BLAZEPOSE_LICENCE,
        weights=BLAZEPOSE_WEIGHTS,
        needs=BLAZEPOSE_EXTRA,
    ),
)
