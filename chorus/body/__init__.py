"""The human body: template mesh, joints, skinning weights, kinematics, and the files of SMPL and its relatives."""

from chorus.body.model import Body, load_body

__all__ = ["Body", "load_body"]
