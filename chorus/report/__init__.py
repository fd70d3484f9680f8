"""A result on one page: what it is, from which images, statistics, figures and a view to turn, in one file without network."""
