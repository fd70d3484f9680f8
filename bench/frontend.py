"""``python -m bench.frontend [--images N] [--size PIXELS] [--flops] [-o FILE]``: disk and time of the front end.

A run of N images through the whole pipeline with every stage played by a simulated world, so that what is measured is the
pipeline's own: bytes of a store per generated image, kept and rejected, what Table 3 would come to beside the published
pipeline's >= 5 TB, and where the time goes. Masks are those of the world's objects at this size of image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.report import write_record
from chorus.body.model import load_body
from chorus.frontend.plan import Description
from chorus.frontend.prompting import PRESETS
from chorus.frontend.run import STAGE_KINDS, Settings, fill_store
from chorus.frontend.stages import ImageRequest
from chorus.simulate.worlds import WORLDS
from chorus.store import COMPLETE, open_store, store_info

KEPT_OF_TABLE_3 = 161_835
"""Images after filtering, all categories (Table 3)."""


def measure(images: int, size: int, batch: int, folder: Path) -> dict[str, Any]:
    """A run's bytes and times."""
    path = folder / "bench.chorus"
    stages = dict.fromkeys(STAGE_KINDS, "simulated")
    description = Description("sports ball", stages, {"images.size": str(size), "humans.camera": "fitted"})
    names = ("ball-held", "ball-kicked")
    requests = [ImageRequest(f"image-{i:06d}", WORLDS[names[i % 2]].prompt, "side view", i) for i in range(images)]
    report = fill_store(path, requests, description, load_body(), Settings(device="cpu", batch=batch))
    store = open_store(path)
    if len(store) != images or report.images != images:
        raise SystemExit(f"expected {images} rows, got {len(store)}")
    kept = store.rows["status"] == COMPLETE
    words = np.concatenate([4 * np.diff(shard.array("mask/offset")) for shard in store.shards])
    total = int(store_info(path)["bytes"])
    fixed = (total - int(words.sum())) / images
    mask = float(words[kept].mean())
    made = sum(p.images for p in PRESETS.values())
    gigabytes = (made * fixed + KEPT_OF_TABLE_3 * mask) / 1e9
    busy = {t.name: t.busy for t in report.times}
    return {
        "images": images,
        "size": size,
        "kept": int(np.count_nonzero(kept)),
        "bytes": total,
        "bytes_rejected": round(fixed, 1),
        "bytes_kept": round(fixed + mask, 1),
        "bytes_mask": round(mask, 1),
        "table_3": {"images": made, "kept": KEPT_OF_TABLE_3, "gigabytes": round(gigabytes, 3)},
        "images_per_s": round(images / report.seconds, 1),
        "busy_s": {name: round(s, 2) for name, s in busy.items()},
    }


def flops() -> dict[str, float]:
    """Floating-point operations of Stable Diffusion v1.4 (a multiply-add is two), counted on its real architecture without
    weights: 50 steps of PLMS are 51 calls of the network, each for the prompt and for none (guidance)."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
            down_block_types=(down, down, down, "DownBlock2D"),
            up_block_types=("UpBlock2D", up, up, up),
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        calls: tuple[Callable[[], Any], ...] = (
            lambda: unet(torch.zeros(1, 4, 64, 64), torch.tensor(1.0), torch.zeros(1, 77, 768)),
            lambda: vae.decode(torch.zeros(1, 4, 64, 64)),
        )
        counts = []
        for call in calls:
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(float(counter.get_total_flops()))
    parameters = float(sum(p.numel() for p in unet.parameters()))
    return {"unet": counts[0], "decoder": counts[1], "image": 51 * 2 * counts[0] + counts[1], "unet_parameters": parameters}


def main(arguments: list[str] | None = None) -> int:
    """Run what the options ask for and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.frontend", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="images generated (1000)")
    parser.add_argument("--size", type=int, default=512, help="pixels along a side of an image (512)")
    parser.add_argument("--batch", type=int, default=16, help="images a stage takes at a time (16)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write the record to")
    parser.add_argument("--flops", action="store_true", help="instead: the arithmetic of one image of Stable Diffusion v1.4")
    options = parser.parse_args(arguments)
    if options.flops:
        counted = flops()
        print(f"U-Net of {counted['unet_parameters'] / 1e6:.1f} M parameters: {counted['unet'] / 1e12:.3f} TFLOP a call")
        decoder, image = counted["decoder"] / 1e12, counted["image"] / 1e12
        print(f"an image of 512 pixels (102 calls, decoder {decoder:.2f}): {image:.1f} TFLOP")
        print(f"10,000 images: {1e4 * counted['image'] / 1e15:,.0f} PFLOP")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.images, options.size, options.batch, Path(folder))
    print(f"{found['images']:,} images of {found['size']} pixels, {found['kept']:,} with mask, pose and camera")
    print(f"bytes an image: {found['bytes_rejected']:,.0f} rejected, {found['bytes_kept']:,.0f} kept")
    table = found["table_3"]
    told = f"{table['images']:,} images, {table['kept']:,} kept"
    print(f"Table 3 ({told}) would take {table['gigabytes']:.2f} GB with such masks; published: >= 5 TB")
    total = sum(found["busy_s"].values())
    shares = ", ".join(f"{name} {100 * s / total:.0f} %" for name, s in found["busy_s"].items())
    print(f"{found['images_per_s']:,.0f} images/s, all stages simulated; of their time: {shares}")
    if options.output is not None:
        write_record(options.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
