"""Everything is declared in pyproject.toml; this file keeps `python setup.py` style tools working."""

from pathlib import Path

from setuptools import setup

if not (Path(__file__).parent / "chorus" / "kernels" / "__init__.py").is_file():
    # Without this the package would be built in silence, and lack its kernels.
    raise SystemExit(
        "chorus/kernels must be a symbolic link to ../kernels, and is not. Where git wrote a plain file instead, run"
        " `git config core.symlinks true` and `git checkout -- chorus/kernels` (on Windows in developer mode)."
    )

setup()
