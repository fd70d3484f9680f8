"""The description of a stage, known before the stage is made: kind, name, licences of code and weights, options."""

from __future__ import annotations

from dataclasses import dataclass

from chorus.errors import InputError

METHODS = {"prompts": "prompts", "images": "images", "detector": "detect", "keypoints": "keypoints", "humans": "humans"}
"""The one method that a stage of each kind must have; ``chorus.frontend.stages`` says what it is given and returns."""

KINDS = tuple(METHODS)
"""The stages that can be chosen, in the order in which they run."""

REVISION = ("revision", "commit, tag or branch of a model of the hub")
"""The option of every stage whose model is one of the hub."""

REVISIONS = ("revision", "commit, tag or branch of both models of the hub, as in A,B; 'A,' leaves the second as it is")
"""The same, of stages with two models."""

FRONTEND_EXTRA = "pip install '.[frontend]' in a checkout of the project"
"""``needs`` of stages whose libraries come with the project's extra."""

BLAZEPOSE_EXTRA = "pip install '.[blazepose]' in a checkout of the project"
BLAZEPOSE_LICENCE = "code: LiteRT and MediaPipe, Apache-2.0; weights: MediaPipe's, Apache-2.0"
BLAZEPOSE_WEIGHTS = (
    "PATH of a .tflite file, a .task bundle or mediapipe's wheel; by default those that `python -m chorus.frontend.blazepose` "
    "takes out of the wheel of mediapipe 0.10.21 on PyPI"
)
"""``needs``, ``licence`` and ``weights`` of the stages ``blazepose``."""


class WeightsMissingError(InputError):
    """Weights that are fetched by a command of their own, and have not been."""


@dataclass(frozen=True)
class StageInfo:
    """One implementation of a stage.

    kind      one of KINDS                    name      the name by which it is chosen
    made_by   "module:function" or "module:Class.method", which makes it from the model (a hub id, a local folder
              or a file) and a Runtime
    what      what it does, in a line         model     the default model; "" where it has no default and one must be named;
                                              None where the stage has no model
    licence   of the code and of the weights  weights   where they come from
    needs     what to install for it         requires  modules without which it cannot be made
    options   what ``--set KIND.NAME=VALUE`` can say, name -> meaning; None where the stage declares neither its model nor its
              options: what is given is passed on, for the stage to judge
    local     the model is a path of this machine, which must exist
    hub       the model is a hub id, or a folder that holds this file; several files: as many models, separated by commas
    checked_by  "module:function", called with (model, runtime, category) before anything is loaded or downloaded: it raises
              InputError for what can be known to be wrong by then, such as the value of an option. ``category`` is None where
              it is not known yet, and ``runtime.body`` may be
    """

    kind: str
    name: str
    made_by: str
    what: str
    model: str | None
    licence: str
    weights: str
    needs: str = ""
    options: tuple[tuple[str, str], ...] | None = ()
    local: bool = False
    requires: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()
    checked_by: str = ""
