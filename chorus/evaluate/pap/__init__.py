"""Projective average precision (4.2, B.2): of one image, and by category from test stores."""
