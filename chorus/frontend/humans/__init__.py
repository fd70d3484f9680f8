"""Finding a person's 3D pose."""

from __future__ import annotations

from chorus.frontend.stage_info import BLAZEPOSE_EXTRA, BLAZEPOSE_LICENCE, BLAZEPOSE_WEIGHTS, FRONTEND_EXTRA, StageInfo

STAGES: tuple[StageInfo, ...] = (
    StageInfo(
        kind="humans",
        name="hmr",
        made_by="chorus.frontend.humans.hmr:make",
        checked_by="chorus.frontend.humans.hmr:check",
        requires=("transformers",),
        what="3D pose by the iterative regressor of HMR, with a checkpoint of SPIN, FrankMocap (the paper's) or EFT",
        model="",
        local=True,
        licence="code: this project's; weights: FrankMocap and EFT CC BY-NC 4.0, SPIN BSD-3 code with SMPL data for "
        "non-commercial research only",
        weights="PATH of a checkpoint that you have: FrankMocap's body module (its scripts/download_data_body_module.sh), "
        "SPIN's model_checkpoint.pt (its fetch_data.sh) or EFT's (its scripts/download_mocapdata.sh)",
        needs=FRONTEND_EXTRA,
        options=(
            ("projection", "how the checkpoint's camera is meant: frankmocap (EFT's too; the default) or spin"),
            ("crop_scale", "side of the square crop over the longer side of the person's box; 1.2"),
            ("min_side", "least side of that crop in pixels of the image; smaller people are refused; 20"),
        ),
    ),
    StageInfo(
        kind="humans",
        name="records",
        made_by="chorus.frontend.humans.pose_files:make",
        checked_by="chorus.frontend.humans.pose_files:check",
        what="3D poses found elsewhere, by any model: read from .npz or .json files (docs/humans.md)",
        model="",
        local=True,
        licence="code: this project's; that of the predictions is theirs",
        weights="PATH of a .npz or .json file, or of a folder of them; layout: docs/humans.md",
    ),
    StageInfo(
        kind="humans",
        name="blazepose",
        made_by="chorus.frontend.blazepose.stages:make_humans",
        checked_by="chorus.frontend.blazepose.stages:check",
        requires=("ai_edge_litert",),
        what="BlazePose's landmarks (MediaPipe), and the body fitted to them by least squares; no GPU, no registration",
        model="full",
        licence=BLAZEPOSE_LICENCE,
        weights=BLAZEPOSE_WEIGHTS,
        needs=BLAZEPOSE_EXTRA,
        options=(("min_visibility", "visibility below which a landmark counts as not seen; 0.65"),),
    ),
)
