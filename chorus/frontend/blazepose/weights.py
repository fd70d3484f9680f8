"""BlazePose's weights: where they come from, and reading them from the archives that they are published in."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from chorus.errors import InputError
from chorus.field import cache_folder
from chorus.files import write_atomically

DEFAULT = "full"
"""The model that stands for the fetched weights, where no path is given."""

WHEEL = "mediapipe==0.10.21"
"""The last wheel of mediapipe that holds weights, on PyPI (Apache-2.0). Nothing in it is installed or run."""

SHA256 = "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"
"""Of pose_landmark_full.tflite in that wheel."""

FETCH = "python -m chorus.frontend.blazepose"
"""The command that fetches them."""

_MEMBER = re.compile(r"(?:^|/)pose_landmarks?_(heavy|full|lite|detector)\.tflite$")
_ORDER = ("heavy", "detector", "full", "lite")  # of several models in one archive; "detector": the only one of a task bundle
_MOST_BYTES = 1 << 28


def default_path() -> Path:
    """Where ``fetch`` puts the weights: in the cache folder, which CHORUS_CACHE changes."""
    return cache_folder() / "blazepose" / "pose_landmark_full.tflite"


def resolve(model: str) -> Path:
    """The file that a stage's model names: a path, or DEFAULT. InputError, saying how to get it, where it is not there."""
    if model == DEFAULT:
        path = default_path()
        if not path.is_file():
            raise InputError(
                f"blazepose: expected its weights in {path}; fetch them once: {FETCH}; or name a file: blazepose=PATH"
            )
        return path
    path = Path(model).expanduser()
    if not path.is_file():
        raise InputError(f"blazepose: expected a .tflite file, a .task bundle or mediapipe's wheel, got {model!r}")
    return path


def read_weights(path: Path) -> bytes:
    """The landmark model, the bytes of a .tflite file, from such a file or from a .task bundle, a wheel or another zip file.

    InputError for anything else. Of several models in an archive the largest is taken (heavy, full, lite).
    """
    try:
        if not zipfile.is_zipfile(path):
            content = path.read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                found = {match[1]: info for info in archive.infolist() if (match := _MEMBER.search(info.filename))}
                if not found:
                    raise InputError(
                        f"{path}: expected an archive that holds pose_landmark_full.tflite or the like, found none"
                    )
                info = found[min(found, key=_ORDER.index)]
                if info.file_size > _MOST_BYTES:
                    raise InputError(f"{path}: expected a model of at most {_MOST_BYTES} bytes, got {info.file_size}")
                content = archive.read(info)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: expected a file or archive that can be read: {error}") from None
    if content[4:8] != b"TFL3":
        raise InputError(f"{path}: expected a model of TensorFlow Lite, got {content[:8]!r}")
    return content


def fetch() -> Path:
    """Download WHEEL by pip, take the landmark model out of it into the cache, and return its path; nothing where it is there.

    35 MB are downloaded and 6 MB kept. InputError where pip cannot get the wheel, or where its content is another than known.
    """
    path = default_path()
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as folder:
        # The wheel is only unpacked, so that of one platform does for all.
        platforms = ("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64")
        options = ("--no-deps", "--only-binary", ":all:", "--python-version", "3.11", *platforms)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", folder, WHEEL],
            capture_output=True,
            text=True,
        )
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise InputError(f"blazepose: expected pip to download {WHEEL}, it said: {said}")
        content = read_weights(wheels[0])
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise InputError(f"blazepose: expected the known weights in {WHEEL}, got others")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: part.write_bytes(content))
    return path
