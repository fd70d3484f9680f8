"""From a category's name to a filled store: prompts, images, detection, keypoints, 3D pose, camera, filters.

The stages are protocols (``chorus.frontend.stages``); their implementations are chosen by name
(``chorus.frontend.registry``) and imported only when they are used: this package needs no model library.
"""
