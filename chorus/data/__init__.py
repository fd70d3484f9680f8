"""Files that the package carries: the mannequin, and the page and the 3D view of reports."""
