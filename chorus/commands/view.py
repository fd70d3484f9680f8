"""``chorus view``: a distribution in the browser, live."""

from __future__ import annotations

import time
from pathlib import Path

import click

from chorus.commands.console import out, progress_bars
from chorus.commands.options import STORE, Canonicalization, body_option


@click.command("view", short_help="An occupancy or a store in the browser, live.")
@click.argument("source", metavar="OCCUPANCY|STORE", type=STORE)
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="Port of 127.0.0.1; 0: one that is free."
)
@click.option("--no-browser", is_flag=True, help="Only print the address; open no browser.")
@click.option(
    "--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Of a store: voxels along an edge."
)
@click.option(
    "--canonicalization", type=Canonicalization(), default="lbs", show_default=True, help="Of a store: what carries a voxel."
)
@body_option
def view_command(
    source: Path, port: int, no_browser: bool, resolution: int, canonicalization: str, body_path: Path | None
) -> None:
    """An occupancy or a store in the browser, live.

    The body with the object as nested surfaces: move the threshold and the joints. Of a store also: prompts, body parts,
    canonicalizations, cameras, and the images behind a voxel that is clicked. It listens on 127.0.0.1 alone, until Ctrl-C.
    """
    import webbrowser

    from chorus.body.model import load_body
    from chorus.experimental.sharpened import load_distribution
    from chorus.store import open_store
    from chorus.store.urls import StoreUrl, place_of
    from chorus.view.session import Question, Session
    from chorus.view.viewer import Viewer, viser_package

    viser_package()
    body = load_body(body_path)
    if source.is_dir() or isinstance(place_of("STORE", source), StoreUrl):
        with progress_bars() as update:
            session = Session(
                None,
                body,
                store=open_store(source),
                resolution=resolution,
                question=Question(canonicalization=canonicalization),
                progress=lambda done, total: update("images", done, total),
            )
    else:
        session = Session(load_distribution(source), body)
    viewer = Viewer(session, port)
    try:
        out.print(f"{viewer.url}  (Ctrl-C ends it)")
        if not no_browser:
            webbrowser.open(viewer.url)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
    finally:
        viewer.stop()
