"""BlazePose's weights: where they come from, and reading them from the archives that they are published in."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from functools import partial
from pathlib import Path

from chorus.errors import InputError
from chorus.files import cache_folder, write_atomically
from chorus.frontend.stage_info import WeightsMissingError

DEFAULT = "full"
"""The model that stands for the fetched weights, where no path is given."""

WHEEL = "mediapipe==0.10.21"
"""The last wheel of mediapipe that holds weights, on PyPI (Apache-2.0). Nothing in it is installed or run."""

LANDMARKS, DETECTOR = "pose_landmark_full.tflite", "pose_detection.tflite"
"""The two models that are fetched: landmarks of one person, and where people are."""

SHA256 = {
    LANDMARKS: "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    DETECTOR: "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
}
"""Of these files in that wheel."""

FETCH = "python -m chorus.frontend.blazepose"
"""The command that fetches them."""

_MEMBER = re.compile(r"(?:^|/)pose_landmarks?_(heavy|full|lite|detector)\.tflite$")
_DETECTOR = re.compile(r"(?:^|/)(pose_detect(?:or|ion))\.tflite$")
_ORDER = ("heavy", "detector", "full", "lite")  # of several models in one archive; "detector": the only one of a task bundle
_MOST_BYTES = 1 << 28


def default_path(name: str = LANDMARKS) -> Path:
    """Where ``fetch`` puts a model: in the cache folder, which CHORUS_CACHE changes."""
    return cache_folder() / "blazepose" / name


def resolve(model: str, name: str = LANDMARKS) -> Path:
    """The file that a stage's model names: a path, or DEFAULT, the fetched one of this name.

    InputError, saying how to get it, where it is not there.
    """
    if model == DEFAULT:
        path = default_path(name)
        if not path.is_file():
            raise WeightsMissingError(
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
    return _read(path, _MEMBER, LANDMARKS)


def read_detector(path: Path) -> bytes:
    """The person detector, likewise. A file that is no archive must be the detector itself."""
    return _read(path, _DETECTOR, DETECTOR)


def _read(path: Path, member: re.Pattern[str], name: str) -> bytes:
    try:
        with path.open("rb") as file:
            bare = file.read(8)[4:] == b"TFL3"  # one with metadata passes for a zip file as well, of the metadata
        if bare or not zipfile.is_zipfile(path):
            content = path.read_bytes()
        else:
            with zipfile.ZipFile(path) as archive:
                found = {match[1]: info for info in archive.infolist() if (match := member.search(info.filename))}
                if not found:
                    raise InputError(f"{path}: expected an archive that holds {name} or the like, found none")
                info = found[min(found, key=lambda kind: _ORDER.index(kind) if kind in _ORDER else 0)]
                if info.file_size > _MOST_BYTES:
                    raise InputError(f"{path}: expected a model of at most {_MOST_BYTES} bytes, got {info.file_size}")
                content = archive.read(info)
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: expected a file or archive that can be read: {error}") from None
    if content[4:8] != b"TFL3":
        raise InputError(f"{path}: expected a model of TensorFlow Lite, got {content[:8]!r}")
    return content


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def fetch() -> Path:
    """Download WHEEL by pip, take the two models out of it into the cache; returns the path of the landmark model.

    Nothing is done where both are there. 35 MB are downloaded and 9 MB kept. InputError where pip cannot get the wheel, or
    where its content is another than known.
    """
    if all(default_path(name).is_file() for name in SHA256):
        return default_path()
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
        contents = {LANDMARKS: read_weights(wheels[0]), DETECTOR: read_detector(wheels[0])}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise InputError(f"blazepose: expected the known weights in {WHEEL}, got another {name}")
    default_path().parent.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(default_path(name), partial(_write, content=content))
    return default_path()
