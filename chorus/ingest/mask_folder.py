"""A store from a folder of masks and one file of poses and cameras (docs/imports.md)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from chorus.body.model import Body
from chorus.errors import InputError, StoreError
from chorus.ingest.posed_masks import MaskedImage, PeopleByName, PosedMasks, Report, image_name
from chorus.ingest.poses.formats import Poses, read_people
from chorus.picture_files import OTHER_SUFFIXES, SUFFIXES, PictureError, picture_file
from chorus.pictures import picture_header, read_mask, read_picture
from chorus.store import StoreWriter, open_store
from chorus.store.schema import STORE_JSON

_MOST_KEY_BYTES = 255


@dataclass(frozen=True)
class Import:
    """What all imports of masks with poses are told.

    store         the store to make or to add to
    category      the object
    prompt        of all images; None: the name of the mask's folder, or the category
    dry_run       look at everything and write nothing
    person_masks  whether the store keeps masks of the person
    provenance    kept in the store
    stop          an event that ends the work after the image under way; what was read is committed
    progress      called with the number of images done and of all
    """

    store: Path
    category: str
    prompt: str | None = None
    dry_run: bool = False
    person_masks: bool = False
    provenance: Mapping[str, Any] | None = None
    stop: threading.Event | None = None
    progress: Callable[[int, int], None] | None = None


def ingest_mask_folder(
    masks: str | os.PathLike[str],
    poses: Poses,
    body: Body,
    how: Import,
    *,
    people_folder: str | os.PathLike[str] | None = None,
    pictures_folder: str | os.PathLike[str] | None = None,
) -> Report:
    """Fill a store from the masks in a folder, at any depth, and the people in the file ``poses``.

    masks            FOLDER/NAME.png is the object's mask in the image NAME, its key in the store (``read_mask``)
    poses            a person belongs to the image of the same name, with or without ending
    people_folder    masks of the person, under the same names
    pictures_folder  the photographs, under the same names, which the store then keeps

    What cannot be used is reported and leaves nothing in the store; the same call goes on where it was stopped, and reads
    again what was rejected. Raises InputError for a folder without masks and for a file of poses that cannot be used,
    StoreError for a store of another body, category or kind.
    """
    root = Path(masks)
    if not root.is_dir():
        raise InputError(f"masks: expected a folder, got {str(root)!r}")
    report = Report()
    files = list(_masks(root, report))
    if not files:
        raise InputError(f"masks: expected pictures in {str(root)!r} or folders in it, got none")
    people = PeopleByName(read_people(poses, body))
    report.read_as = people.people.read_as
    more = [None if folder is None else Path(folder) for folder in (people_folder, pictures_folder)]

    def read(path: Path, key: str) -> MaskedImage:
        mask = read_mask(path)
        if not mask.any():
            raise InputError("mask: expected pixels of the object, got none")
        person, picture = (None if folder is None else beside(folder, key) for folder in more)
        size = (mask.shape[0], mask.shape[1])
        if more[0] is not None and person is None:
            raise InputError(f"person mask: expected one of this name in {str(more[0])!r}, got none")
        return MaskedImage(
            key,
            mask[None],
            None if person is None else read_mask(person, size=size)[None],
            _prompt(key, how),
            None if picture is None else kept_picture(picture, size),
        )

    with filling(how, body, people, report) as (taken, images, write):
        for number, (path, key) in enumerate(files):
            if how.stop is not None and how.stop.is_set():
                report.stopped = True
                break
            try:
                if key in taken:
                    people.find(key)
                    report.present.append(key)
                else:
                    images.add(read(path, key))
            except StoreError:
                raise
            except (InputError, OSError) as error:
                report.rejected.append((str(path), str(error)))
            if images.full:
                write()
            if how.progress is not None:
                how.progress(number + 1, len(files))
    if not report.stopped:
        report.rejected += [(f"{poses.path}: {name}", "mask: expected one of this name, got none") for name in people.unused()]
    return report


@contextmanager
def filling(
    how: Import, body: Body, people: PeopleByName, report: Report
) -> Iterator[tuple[Any, PosedMasks, Callable[[], None]]]:
    """A context in which a store is filled: the keys that it has, what takes images, and what hands them to the store.

    The store is made at the first image that can be used; leaving the context commits, leaving it by an exception does not.
    """
    exists = (how.store / STORE_JSON).exists()
    if exists:
        _check_store(how)
    images = PosedMasks(people, body, report)
    with ExitStack() as until_the_end:
        writers: list[StoreWriter] = []

        def write() -> None:
            if how.dry_run:
                images.forget()
            elif len(images):
                if not writers:
                    writers.append(until_the_end.enter_context(_writer(how, body)))
                images.write(writers[0], person_masks=how.person_masks)

        until_the_end.callback(images.finish)
        taken: set[str] = set()
        if exists:
            if not how.dry_run:  # a store that cannot take these images is refused before they are read
                writers.append(until_the_end.enter_context(_writer(how, body)))
            taken = {key.decode("utf-8", "replace") for key in open_store(how.store, verify=False).rows["key"].tolist()}
        yield taken, images, write
        write()


def _writer(how: Import, body: Body) -> StoreWriter:
    return StoreWriter(
        how.store,
        category=how.category,
        num_joints=body.num_joints,
        body_hash=body.hash,
        person_masks=how.person_masks,
        provenance=how.provenance,
    )


def _check_store(how: Import) -> None:
    """StoreError where the store keeps masks of the person and none are given, or the other way round."""
    store = open_store(how.store, verify=False)
    if store.has_person_masks != how.person_masks:
        wanted = "masks of the person, as the store keeps them" if store.has_person_masks else "none: the store keeps none"
        raise StoreError(f"person masks: expected {wanted}")


def _masks(root: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """The masks in a folder and their keys, in the order of their names; links are followed for files only."""
    seen: dict[str, Path] = {}
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if not name.lower().endswith((*SUFFIXES, *OTHER_SUFFIXES)) or not path.is_file():
                continue
            key = image_name(path.relative_to(root).as_posix()) if name.lower().endswith(SUFFIXES) else path.as_posix()
            problem = key_problem(key) or (f"mask: expected one of this name, got also {seen[key].name}" if key in seen else "")
            if problem:
                report.rejected.append((str(path), problem))
                continue
            seen[key] = path
            yield path, key


def key_problem(key: str) -> str:
    try:
        length = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return f"mask: expected a name in UTF-8, got {key!a}"
    return "" if length <= _MOST_KEY_BYTES else f"mask: expected a path of at most {_MOST_KEY_BYTES} bytes, got {length}"


def beside(folder: Path, key: str) -> Path | None:
    """The picture of a key in another folder."""
    name = PurePosixPath(key)
    try:
        return picture_file(folder / name.parent, name.name.lower())
    except PictureError as error:
        raise InputError(f"{folder}: {error}") from None


def kept_picture(path: Path, size: tuple[int, int]) -> Any:
    """A picture as ``StoreWriter.append`` takes it; PictureError (an InputError) where it is of another size than (H, W)."""
    pixels = read_picture(path, size=size)
    return path.read_bytes() if picture_header(path)[0] in ("JPEG", "PNG", "WEBP") else pixels


def _prompt(key: str, how: Import) -> str:
    if how.prompt is not None:
        return how.prompt
    parent = PurePosixPath(key).parent.name
    return parent.replace("_", " ") if parent else how.category
