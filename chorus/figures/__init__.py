"""Pictures: the learned distribution with the body, view distributions, masks with the projected body."""
