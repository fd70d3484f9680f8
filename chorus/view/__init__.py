"""A live view of a distribution in the browser: the body, nested surfaces, poses, and what images say of them."""
