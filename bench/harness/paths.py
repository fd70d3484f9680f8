"""Where packages are imported from, mended before torch is."""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path


def import_torch_without_spaces() -> Path | None:
    """Let torch be imported through a link whose path has no space, where its own has one; the link's folder, else None.

    torch.compile (2.13) writes torch's folder unquoted into the C++ compiler's command line, so that in an environment
    below a folder with a space in its name it can compile nothing. Nothing is changed once torch has been imported, or where
    temporary folders have a space too.
    """
    spec = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    packages = Path(spec.origin).parent.parent
    if " " not in str(packages) or " " in tempfile.gettempdir():
        return None
    folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = folder / "packages"
    link.symlink_to(packages)
    # Just before the folder itself: ahead of everything it could hide modules of the standard library.
    at = next((i for i, entry in enumerate(sys.path) if entry and Path(entry).resolve() == packages.resolve()), 0)
    sys.path.insert(at, str(link))
    return folder
