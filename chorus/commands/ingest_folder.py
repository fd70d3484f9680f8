"""``chorus ingest folder``: a folder of masks and one file of poses and cameras into a store."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import ERROR_EXIT, err, out, print_facts, print_json, progress_bars, wrote
from chorus.commands.interruption import stopping
from chorus.commands.options import INPUT, Count, OutputStore, body_option, json_option

_SHOWN = 20
"""Masks and people that could not be used and are printed one by one; the rest is counted. With --json all are printed."""


poses_option = click.option(
    "--poses", type=INPUT, required=True, help="The file of poses and cameras: .npz, .json, .csv or .pkl."
)


class _Format(click.ParamType[str]):
    """The name of a layout of poses, or auto."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name; click's BadParameter for one that no layout has."""
        from chorus.ingest.poses.formats import AUTO, FORMATS

        if value not in (AUTO, *FORMATS):
            self.fail(f"expected one of {', '.join((AUTO, *FORMATS))}; got {value!r}", param, ctx)
        return value


format_option = click.option(
    "--format",
    type=_Format(),
    default="auto",
    show_default=True,
    help="Whose layout the file of poses has: plain (above), hmr2 (4D-Humans, TokenHMR), wham, romp (ROMP, BEV), smpl (AMASS: "
    "poses, trans), smplx (global_orient, body_pose, transl), or auto, by its arrays' names. All but plain add the pelvis.",
)


cameras_option = click.option("--cameras", type=INPUT, help="A file with the cameras that the file of poses lacks: R, t and K.")
first_frame_option = click.option(
    "--first-frame",
    type=Count(0),
    help="Poses of a film without names: the number that the name of its first frame ends in.",
)


@click.command("folder", short_help="Take in a folder of masks, and a file of poses and cameras.")
@click.argument("masks", type=INPUT)
@poses_option
@format_option
@cameras_option
@first_frame_option
@click.option("-o", "--output", type=OutputStore(), required=True, help="The store to make or add to.")
@click.option("--category", required=True, help='The object, as in "surfboard".')
@click.option("--prompt", help="The prompt of all images.  [default: the name of a mask's sub-folder, or the category]")
@click.option(
    "--person-masks", "people", type=INPUT, help="A folder of masks of the person, under the same names, to keep too."
)
@click.option("--images", "pictures", type=INPUT, help="A folder of the photographs, same names, to keep too.")
@click.option("--dry-run", is_flag=True, help="Look at everything and write nothing.")
@body_option
@json_option()
def ingest_folder_command(
    masks: Path,
    poses: Path,
    format: str,
    cameras: Path | None,
    first_frame: int | None,
    output: Path,
    category: str,
    prompt: str | None,
    people: Path | None,
    pictures: Path | None,
    dry_run: bool,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Fill a store from a folder of MASKS of the object (PNG: black outside, white inside).

    The file of poses has, for each of n images:

    \b
      keys   (n)           the masks' names, with or without .png; of MASKS/a/1.png a/1
      pose   (n, 24, 3)    SMPL's axis-angle in radians, row 0 the global orientation;
                           also (n, 72), or rotation matrices (n, 24, 3, 3)
      t      (n, 3)        where the pelvis is from the camera, metres: x right,
                           y down, z forward (SMPL's origin is 22 cm off: see origin)
      K      (n, 3, 3)     the camera in pixels, or
      focal  (n)           its focal length, in pixels, about the image's centre

    \b
    and, where you have them:
      R      (n, 3, 3)     turns what the pose's row 0 leaves into the camera's axes;
                           without it, row 0 does
      origin (3) or (n, 3) where the pelvis is in the frame of R and t, metres, not turned
                           by row 0; without it at 0. For SMPL's transl in place of t:
                           -0.0018, -0.2233, 0.0282 (joint 0 of the unposed body)
      betas  (n, B), image_size (n, 2) as height and width, prompt (n), estimator (n)

    Arrays named as smplx has them need no change: keys, global_orient (n, 3), body_pose (n, 69), transl (n, 3), focal; the
    pelvis is then added.

    A point X of the posed body, from its pelvis, is at x = R (R0 X + origin) + t, R0 being row 0. In a .json the same names
    have lists; a .csv has a line an image and columns key, pose_0 to pose_71, t_0, t_1, t_2, focal. The same command goes on
    where it was stopped. Look at the result: chorus aggregate, then chorus
    overlay; people 20 cm beside their masks mean a missing origin.
    """
    from chorus.body.model import load_body
    from chorus.ingest.mask_folder import Import, ingest_mask_folder
    from chorus.ingest.poses.formats import Poses

    with stopping("the images read so far") as stop, progress_bars() as update:
        report = ingest_mask_folder(
            masks,
            Poses(poses, format, cameras, first_frame),
            load_body(body_path),
            Import(
                output,
                category,
                prompt,
                dry_run,
                person_masks=people is not None,
                stop=stop,
                progress=lambda done, total: update("images", done, total),
            ),
            people_folder=people,
            pictures_folder=pictures,
        )
    print_import(report, output, dry_run=dry_run, as_json=as_json, stopped_code=stop.exit_code)


def print_import(report: object, output: Path, *, dry_run: bool, as_json: bool, stopped_code: int) -> None:
    """Print what an import did, a ``chorus.ingest.posed_masks.Report``; exits where it was stopped or did nothing."""
    from dataclasses import asdict

    from chorus.ingest.posed_masks import Report

    assert isinstance(report, Report)
    if as_json:
        print_json({**asdict(report), "dry_run": dry_run})
    else:
        for what, reason in report.rejected[:_SHOWN]:
            err.print(f"rejected {what}: {reason}")
        if len(report.rejected) > _SHOWN:
            err.print(f"rejected {len(report.rejected) - _SHOWN} more (--json lists all)")
        if report.outside:
            err.print(
                f"chorus: warning: the person is outside of the image in {len(report.outside)} of {len(report.added)} images, "
                f"such as {report.outside[0]}: are poses and camera in the frames that they should be in?"
            )
        facts: dict[str, object] = {"poses": report.read_as} if report.read_as else {}
        facts |= {"added": len(report.added), "present already": len(report.present), "rejected": len(report.rejected)}
        facts |= {f"left out {what}": count for what, count in report.left_out.items()}
        if report.several:
            facts["of several people"] = len(report.several)
        print_facts(facts)
        if report.stopped:
            out.print("stopped before the end; the same command goes on from here")
        if dry_run:
            out.print("nothing was written (--dry-run)")
        elif report.added:
            wrote(output)
        else:
            out.print(f"nothing was added to {output}" if output.exists() else f"{output} was not made: no image could be used")
    if report.stopped:
        raise click.exceptions.Exit(stopped_code)
    if not report.added and not report.present:
        raise click.exceptions.Exit(ERROR_EXIT)
