"""Solvers of the camera fit: the problem and its starts, Adam, Levenberg-Marquardt, and the search from several starts."""
