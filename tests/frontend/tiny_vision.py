"""Tiny models of the real classes of detection, segmentation and keypoints, with random weights, saved to folders.

Two of them are fitted so that they find what a test needs: their features come from position embeddings more than from
pixels, and the last layers are solved for by least squares on pictures of many kinds. Everything in between is random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.keypoints import COCO_KEYPOINTS

COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra",
    "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 categories of COCO, in its order."""

SIDE = 64
"""Pixels of the side to which the tiny detector brings every picture."""

# Body parts in the crop that ViTPose sees, as fractions of its width and height; in the order of COCO_KEYPOINTS. The crop is
# 1.25 boxes, widened to 3 : 4, so these lie on the box of a person that is not much wider than tall.
_STANCE = (
    (0.50, 0.26), (0.53, 0.24), (0.47, 0.24), (0.56, 0.25), (0.44, 0.25), (0.62, 0.36), (0.38, 0.36), (0.68, 0.45),
    (0.32, 0.45), (0.70, 0.53), (0.30, 0.53), (0.57, 0.55), (0.43, 0.55), (0.58, 0.65), (0.42, 0.65), (0.58, 0.74),
    (0.42, 0.74),
)  # fmt: skip


def pictures_of_many_kinds(count: int, side: int = SIDE, seed: int = 0) -> list[NDArray[np.uint8]]:
    """(side, side, 3) uint8 RGB each, in turn: noise, smooth noise, one colour, a gradient, stripes, black or white."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0.0, 1.0, side)
    pictures = []
    for i in range(count):
        colours = rng.uniform(0, 255, (2, 3))
        if i % 6 == 0:
            pixels = rng.uniform(0, 255, (side, side, 3))
        elif i % 6 == 1:
            coarse = rng.uniform(0, 255, (side // 8, side // 8, 3))
            pixels = np.kron(coarse, np.ones((8, 8, 1)))
        elif i % 6 == 2:
            pixels = np.broadcast_to(colours[0], (side, side, 3))
        elif i % 6 == 3:
            mix = (ramp[:, None] * rng.random() + ramp * rng.random())[..., None] / 2
            pixels = colours[0] * (1 - mix) + colours[1] * mix
        elif i % 6 == 4:
            stripes = (np.arange(side) // rng.integers(1, 9) % 2)[None, :, None]
            pixels = np.broadcast_to(colours[0] * (1 - stripes) + colours[1] * stripes, (side, side, 3))
        else:
            pixels = np.full((side, side, 3), 255.0 * (i // 6 % 2))
        pictures.append(pixels.astype(np.uint8))
    return pictures


def tiny_mask2former(folder: Path, names: tuple[str, ...] = COCO_NAMES, queries: int = 5, seed: int = 0) -> Path:
    """A Mask2Former with random weights and its processor, which brings every picture to SIDE x SIDE. Returns the folder."""
    model, processor = _mask2former(names, queries, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_mask2former_that_finds(folder: Path, category: str = "surfboard", seed: int = 0) -> Path:
    """A Mask2Former that finds one person and one object of the category in nearly any picture. Returns the folder.

    With the scores of both above 0.9; the person upright in the middle, the object across the person's waist, each in one
    piece, with some tens of percent of the object's box inside the person's; edges differ a little with the picture.
    """
    names = COCO_NAMES if category in COCO_NAMES else (*COCO_NAMES, category)
    model, processor = _mask2former(names, 5, seed)
    inputs = processor(images=pictures_of_many_kinds(24, seed=seed + 1), return_tensors="pt")["pixel_values"]
    seen: dict[str, torch.Tensor] = {}

    def remember(name: str):
        return lambda module, given, result: seen.__setitem__(name, given[0].detach())

    decoder = model.model.transformer_module.decoder
    pixels = model.model.pixel_level_module.decoder.mask_projection
    # The mask predictor runs once before the decoder's layers and once after each: the last call stays. Its embedder's last
    # layer sees (batch, queries, hidden); the class predictor's last call sees the same queries before the embedder.
    final = decoder.mask_predictor.mask_embedder.layers[-1].layers[0]
    hooks = [
        pixels.register_forward_hook(remember("pixels")),
        final.register_forward_hook(remember("queries")),
        model.class_predictor.register_forward_hook(remember("classes")),
    ]
    height = width = SIDE // 4
    with torch.no_grad():
        # Masks: channel 0 of the pixel features is the person, channel 1 the object, and query q's embedding picks channel q.
        # The decoder attends where its masks are, so the features are settled first, then the embedder, then the classes.
        model(pixel_values=inputs)
        features = seen["pixels"].permute(0, 2, 3, 1).reshape(-1, seen["pixels"].shape[1])
        row, column = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        person = 1 - ((column - 0.5) / 0.22) ** 2 - ((row - 0.5) / 0.42) ** 2
        thing = 1 - ((column - 0.62) / 0.28) ** 2 - ((row - 0.52) / 0.13) ** 2
        wanted = torch.from_numpy(np.clip(np.stack([person, thing], -1), -1, 1)).float().reshape(-1, 2).repeat(len(inputs), 1)
        _solve(pixels, features, torch.nn.functional.pad(wanted * 24, (0, pixels.out_channels - 2)))
        model(pixel_values=inputs)
        picks = torch.zeros(5, final.out_features)
        picks[0, 0] = picks[1, 1] = 1.0
        picks[2:, 0] = -1.0
        _solve(final, seen["queries"].reshape(-1, final.in_features), picks.repeat(len(inputs), 1))
        model(pixel_values=inputs)
        classes = torch.full((5, len(names) + 1), -6.0)
        classes[0, names.index("person")] = classes[1, names.index(category)] = classes[2:, len(names)] = 6.0
        _solve(model.class_predictor, seen["classes"].reshape(-1, model.config.hidden_dim), classes.repeat(len(inputs), 1))
    for hook in hooks:
        hook.remove()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _mask2former(names: tuple[str, ...], queries: int, seed: int):
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil, SwinConfig

    backbone = SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=2,
        use_absolute_embeddings=True, out_features=["stage1", "stage2", "stage3", "stage4"], drop_path_rate=0.0,
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=64, mask_feature_size=32, hidden_dim=64, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=4, num_attention_heads=2, dim_feedforward=32, num_queries=queries,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Mask2FormerForUniversalSegmentation(config).eval()
        embeddings = model.model.pixel_level_module.encoder.swin.embeddings
        # Where a patch lies counts more than what it shows: positions are added to normalised patches.
        embeddings.position_embeddings.copy_(_smooth_positions(SIDE // 4, SIDE // 4, 16))
        embeddings.norm.weight.fill_(0.05)
    processor = Mask2FormerImageProcessorPil(size={"height": SIDE, "width": SIDE}, size_divisor=32, ignore_index=255)
    return model, processor


def tiny_vitpose(folder: Path, experts: int = 1, seed: int = 0) -> Path:
    """A ViTPose that finds a person standing in nearly any crop, sure of every keypoint (above 0.7). Returns the folder.

    The keypoints lie inside of a person's box that is not much wider than tall. Experts above 1: a mixture of as many, which
    needs to be told whose keypoints are wanted; its number 0 knows COCO's.
    """
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation, VitPoseImageProcessorPil

    height, width, patch, hidden = 128, 96, 16, 64
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        backbone = VitPoseBackboneConfig(
            image_size=[height, width], patch_size=[patch, patch], hidden_size=hidden, num_hidden_layers=1,
            num_attention_heads=2, mlp_ratio=2, num_experts=experts, part_features=hidden // 4, out_indices=[1],
        )  # fmt: skip
        names = dict(enumerate(COCO_KEYPOINTS))
        config = VitPoseConfig(backbone_config=backbone, id2label=names, label2id={name: i for i, name in names.items()})
        model = VitPoseForPoseEstimation(config).eval()
        embeddings = model.backbone.embeddings
        rows, columns = height // patch, width // patch
        # The first row belongs to a class token, which the backbone adds to every patch.
        embeddings.position_embeddings.zero_()[:, 1:] = _smooth_positions(rows, columns, hidden)
        embeddings.patch_embeddings.projection.weight.mul_(0.05)
        processor = VitPoseImageProcessorPil(size={"height": height, "width": width})
        pictures = pictures_of_many_kinds(12, seed=seed + 1)
        boxes = [[[8.0, 8.0, SIDE - 24.0, SIDE - 16.0]]] * len(pictures)
        pixels = processor(images=pictures, boxes=boxes, return_tensors="pt")["pixel_values"].float()
        seen: list[torch.Tensor] = []
        hook = model.head.conv.register_forward_hook(lambda module, given, result: seen.append(given[0]))
        model(pixels, dataset_index=torch.zeros(len(pixels), dtype=torch.long) if experts > 1 else None)
        hook.remove()
        unfolded = torch.nn.functional.unfold(seen[0], 3, padding=1).transpose(1, 2)
        peaks = torch.tensor(_STANCE) * torch.tensor([seen[0].shape[3] - 1.0, seen[0].shape[2] - 1.0])
        row, column = torch.meshgrid(*(torch.arange(float(n)) for n in seen[0].shape[2:]), indexing="ij")
        square = (column[..., None] - peaks[:, 0]) ** 2 + (row[..., None] - peaks[:, 1]) ** 2
        heat = torch.exp(-square / (2 * 2.0**2)).reshape(-1, len(peaks)) * 0.95
        _solve(model.head.conv, unfolded.reshape(-1, unfolded.shape[2]), heat.repeat(len(pixels), 1), ridge=1e-7)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_grounding_dino(folder: Path, words: tuple[str, ...] = COCO_NAMES, seed: int = 0) -> Path:
    """A GroundingDINO with random weights, its processor and a tokenizer of the words. Returns the folder."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        SwinConfig,
    )  # fmt: skip

    # The model knows the ends of phrases by BERT's numbers of these tokens.
    vocabulary = [f"[unused{i}]" for i in range(1100)]
    vocabulary[0] = "[PAD]"
    for token, number in {"[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}.items():
        vocabulary[number] = token
    vocabulary += sorted({part for word in words for part in word.split()} - set(vocabulary))
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GroundingDinoConfig(
            backbone_config=SwinConfig(
                image_size=SIDE, patch_size=4, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=2,
                out_indices=[2, 3, 4],
            ),
            text_config=BertConfig(
                vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            ),
            d_model=32, num_queries=12, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
            encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=32, num_feature_levels=3,
        )  # fmt: skip
        model = GroundingDinoForObjectDetection(config).eval()
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    model.save_pretrained(folder)
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def tiny_owlv2(folder: Path, seed: int = 0) -> Path:
    """An OWLv2 with random weights, its processor and a tokenizer of single letters. Returns the folder."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor

    letters = [chr(i) for i in range(33, 127)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[], model_max_length=32)
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Owlv2Config(
            text_config={
                "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": start, "eos_token_id": end,
            },
            vision_config={
                "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": SIDE, "patch_size": 16,
            },
            projection_dim=32,
        )  # fmt: skip
        model = Owlv2ForObjectDetection(config).eval()
        # Boxes near the patches they belong to, scores that are neither 0 nor 1.
        model.box_head.dense2.weight.data.mul_(1e-3)
        model.class_head.dense0.weight.data.mul_(1e-2)
        model.class_head.logit_scale.weight.data.mul_(1e-3)
        model.class_head.logit_shift.weight.data.mul_(1e-3)
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer).save_pretrained(folder)
    return folder


def tiny_sam(folder: Path, seed: int = 0) -> Path:
    """A SAM with random weights and its processor. Returns the folder."""
    from transformers import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = SamConfig(
            vision_config={
                "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE,
                "patch_size": 16, "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 16, "mlp_dim": 32,
            },
            prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "patch_size": 16},
            mask_decoder_config={
                "hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
            },
        )  # fmt: skip
        model = SamModel(config).eval()
        # The published weights are of the order of 1; the class's own start (1e-10) makes every picture alike.
        for module in model.vision_encoder.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.normal_(module.weight, std=0.2)
    images = SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}, mask_size={"longest_edge": SIDE // 4},
        mask_pad_size={"height": SIDE // 4, "width": SIDE // 4},
    )  # fmt: skip
    model.save_pretrained(folder)
    SamProcessor(images).save_pretrained(folder)
    return folder


def _smooth_positions(height: int, width: int, channels: int) -> torch.Tensor:
    """(1, height * width, channels) random waves over the picture, at most two periods long a side."""
    row, column = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = torch.empty(2, channels).uniform_(-2, 2) * 2 * torch.pi
    phase = torch.rand(channels) * 2 * torch.pi
    return torch.sin(row[..., None] * waves[0] + column[..., None] * waves[1] + phase).reshape(1, -1, channels) * 1.5


def _solve(layer: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor, ridge: float = 1e-4) -> None:
    """Set weight and bias of a linear layer, or of a convolution given its unfolded inputs, by ridge regression."""
    x = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    gram = x.T @ x
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    found = torch.linalg.solve(gram, x.T @ outputs.double()).float()
    layer.weight.copy_(found[:-1].T.reshape(layer.weight.shape))
    layer.bias.copy_(found[-1])
