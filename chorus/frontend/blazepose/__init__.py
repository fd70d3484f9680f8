"""BlazePose (Bazarevsky et al. 2020): 33 landmarks of one person in an image and in space, by LiteRT, on any processor.

``python -m chorus.frontend.blazepose`` fetches its weights; docs/humans.md says more.
"""
