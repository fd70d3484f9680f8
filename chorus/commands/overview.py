"""What ``chorus --help`` shows: commands by what they are for, and examples under the help of each."""

from __future__ import annotations

import click

SECTIONS = {
    "Begin": ("demo", "completion"),
    "Make stores": ("simulate", "synthesize", "remake", "prompts", "stages", "ingest", "filter", "store"),
    "Learn from them": ("aggregate", "merge", "contacts", "occupancies", "experimental"),
    "Look at results": ("view", "report", "figure", "explain", "overlay", "pose", "mesh", "reconstruct", "export", "body"),
    "Measure": ("evaluate", "ablate"),
}
"""Heading -> the commands below it; a command that is in none stands under the last heading, Others."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("chorus demo",),
    "completion": ('eval "$(chorus completion bash)"',),
    "simulate": ("chorus simulate -o balls.chorus --images 2000", "chorus simulate -o hats.chorus --world hat --seed 1"),
    "synthesize": (
        'chorus synthesize "sports ball" --simulated -o try.chorus',
        "chorus synthesize surfboard -o surfboard.chorus --humans hmr=frankmocap.pt",
    ),
    "remake": ("chorus remake surfboard.chorus KEY -o again.png",),
    "prompts": ("chorus prompts surfboard",),
    "stages": ("chorus stages", "chorus stages --check mask2former"),
    "ingest folder": ("chorus ingest folder MASKS --poses POSES.npz --category ball -o mine.chorus",),
    "ingest coco": ("chorus ingest coco ANNOTATIONS.json --poses POSES.npz --category surfboard -o surf.chorus",),
    "ingest records": ("chorus ingest records DIR -o mine.chorus",),
    "ingest photos": ('chorus ingest photos PHOTOS --masks MASKS --category "tennis racket" -o mine.chorus',),
    "ingest images": ("chorus ingest images PICTURES --category surfboard -o found.chorus --humans hmr=frankmocap.pt",),
    "ingest coco-eft": ("chorus ingest coco-eft ANNOTATIONS.json EFT.json -o tests",),
    "filter show": ("chorus filter show surfboard.chorus",),
    "filter set": ("chorus filter set surfboard.chorus --rule overlap=0.2 --torso-mode all",),
    "store info": ("chorus store info balls.chorus", "chorus store info s3://bucket/balls.chorus --json"),
    "store verify": ("chorus store verify balls.chorus",),
    "store stats": ("chorus store stats surfboard.chorus --by-view",),
    "store pictures": ("chorus store pictures mine.chorus -o photos",),
    "store merge": ("chorus store merge monday.chorus tuesday.chorus -o week.chorus",),
    "store select": ('chorus store select week.chorus -o riding.chorus --prompt "*riding*"',),
    "store split": ("chorus store split week.chorus -o parts --parts 8",),
    "store compact": ("chorus store compact week.chorus",),
    "store index": ("chorus store index week.chorus",),
    "aggregate": (
        'chorus aggregate balls.chorus -o held.h5 --prompt "* holds *" --picture held.png',
        "chorus aggregate balls.chorus -o best.h5 --canonicalization auto --hidden-weight auto",
        'chorus aggregate balls.chorus -o hand.h5 --part "rightHand and not leftHand"',
        "chorus aggregate balls.chorus --update best.h5",
    ),
    "merge": ("chorus merge part-1.h5 part-2.h5 -o all.h5",),
    "contacts": ("chorus contacts balls.chorus", "chorus contacts balls.chorus --share 1/8"),
    "occupancies": ("chorus occupancies -o ready",),
    "experimental em": ("chorus experimental em balls.chorus best.h5 -o sharp.h5",),
    "explain": ("chorus explain balls.chorus -- -0.7 0.1 0.1",),
    "overlay": ("chorus overlay mine.chorus mine.h5 -o pictures",),
    "pose": ("chorus pose held.h5 pose.npy -o posed.npz --mesh posed.glb",),
    "mesh": ("chorus mesh held.h5 -o held.glb --threshold 0.3 --with-body",),
    "reconstruct": (
        "chorus reconstruct PHOTO.jpg --object-mask MASK.png --occupancies ready -o out",
        "chorus reconstruct RECORD --occupancies all -o out",
    ),
    "export coco": ("chorus export coco balls.chorus -o coco",),
    "export occupancy": ("chorus export occupancy held.h5 -o held.nii.gz", "chorus export occupancy held.h5 -o held.ply"),
    "body info": ("chorus body info", "chorus body info SMPL_NEUTRAL.pkl"),
    "body convert": ("chorus body convert SMPL_NEUTRAL.pkl smpl.npz",),
    "evaluate pap": (
        'chorus evaluate pap TESTS.chorus --occupancy held.h5 --prompt "*"',
        "chorus evaluate pap TESTS.chorus --occupancy held.h5 -o scores.json --share 1/8",
    ),
    "evaluate photos": ("chorus evaluate photos PHOTOS --annotations COCO.json",),
    "evaluate worlds": ("chorus evaluate worlds --images 2000 --seeds 5", "chorus evaluate worlds --estimators"),
    "evaluate roundtrip": ("chorus evaluate roundtrip",),
    "ablate": ("chorus ablate --simulate worlds", "chorus ablate --simulate worlds -o ablations.json --share 1/8"),
    "view": ("chorus view held.h5", "chorus view balls.chorus"),
    "figure shells": ("chorus figure shells held.h5 -o held.png", "chorus figure shells held.h5 --pose pose.npy -o posed.pdf"),
    "figure turntable": ("chorus figure turntable held.h5 -o held.gif",),
    "figure grid": ('chorus figure grid balls.chorus --part "*" --part rightHand --part leftFoot -o grid.png',),
    "figure canonicalization": ('chorus figure canonicalization balls.chorus --prompt "*hand*" -o fields.png',),
    "figure photo": ("chorus figure photo mine.h5 mine.chorus -o photos.png",),
    "figure cameras": ("chorus figure cameras balls.chorus -o cameras.png",),
    "figure weights": (
        "chorus figure weights -o weights.png",
        "chorus figure weights --joint right_hand -o hand.svg",
    ),
    "report": ("chorus report held.h5 balls.chorus -o held.html",),
}
"""Command -> lines that show its use; they are read by a test."""


def format_sections(group: click.Group, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The commands of the main group under SECTIONS, as ``click.Group.format_commands`` writes those of others."""
    named = {word for words in SECTIONS.values() for word in words}
    rest = tuple(word for word in group.list_commands(ctx) if word not in named)
    limit = formatter.width - 6 - max(map(len, group.list_commands(ctx)))
    for heading, words in {**SECTIONS, "Others": rest}.items():
        rows = [(word, group.commands[word].get_short_help_str(limit)) for word in words if word in group.commands]
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)


def add_examples(group: click.Group, path: str = "") -> None:
    """Put the examples under the help of every command below a group."""
    for word, command in group.commands.items():
        name = f"{path} {word}".strip()
        if isinstance(command, click.Group):
            add_examples(command, name)
        elif name in EXAMPLES:
            lines = "\n".join(f"  {line}" for line in EXAMPLES[name])
            command.epilog = f"\b\n{'Examples' if len(EXAMPLES[name]) > 1 else 'Example'}:\n{lines}"
