"""HMR's regressor: the backbone against a ResNet-50 written here, checkpoints, the head, and conventions of its outputs."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import nn

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.frontend import registry
from chorus.frontend.humans import hmr
from chorus.frontend.humans.regressor import build_regressor, load_regressor, read_checkpoint, rotations_from_6d
from chorus.frontend.stages import Human, ImageRequest, Picture, Refusal, Runtime
from tests.frontend.tiny_humans import KINDS, RESNET50, resnet_state, shapely, tiny_hmr_checkpoint, tiny_hmr_state

BODY = load_body()


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides), 1x1; torchvision's names."""

    def __init__(self, into: int, out: int, stride: int, first: bool) -> None:
        super().__init__()
        width = out // 4
        self.conv1, self.bn1 = nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if first else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Pooled features of a bottleneck ResNet, independent of transformers."""

    def __init__(self, stem: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
        into = stem
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(into, width, 2 if stage > 1 and block == 0 else 1, block == 0))
                into = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))


@torch.inference_mode()
def test_the_backbone_is_resnet_50_by_other_names():
    stem, widths, depths, _ = RESNET50
    backbone = resnet_state(stem, widths, depths, torch.Generator().manual_seed(1))
    assert sum(v.numel() for k, v in backbone.items() if "running" not in k and "tracked" not in k) == 23_508_032  # less its fc
    state = tiny_hmr_state()
    head = {k: v for k, v in state.items() if re.match("fc|dec|init", k)}
    head["fc1.weight"] = torch.zeros(32, 2048 + 157)
    theirs = ResNet(stem, widths, depths).eval()
    theirs.load_state_dict(backbone)
    ours = build_regressor(backbone | head)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    expected, found = theirs(images), ours.backbone(images).pooler_output.flatten(1)
    assert expected.shape == found.shape == (2, 2048)
    assert expected.std() > 0.1
    assert (expected - found).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kind", [*KINDS, "safetensors"])
def test_checkpoints_of_every_format_give_one_network(tmp_path, kind, monkeypatch):
    asked = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k.get("weights_only")) or load(*a, **k))
    name = "tiny.safetensors" if kind == "safetensors" else "tiny.pt"
    regressor = load_regressor(tiny_hmr_checkpoint(tmp_path / name, "spin" if kind == "safetensors" else kind))
    assert asked == ([] if kind == "safetensors" else [True])
    state = tiny_hmr_state()
    found = {k: v for k, v in regressor.head.state_dict().items() if not k.startswith("backbone")}
    assert {k: tuple(v.shape) for k, v in found.items()} == {k: tuple(state[k].shape) for k in found}
    for key, value in found.items():
        assert torch.equal(value, state[key]), key
    blocks = regressor.backbone.encoder.stages
    assert torch.equal(blocks[2].layers[0].layer[1].convolution.weight, state["layer3.0.conv2.weight"])
    assert torch.equal(blocks[1].layers[0].shortcut.normalization.running_var, state["layer2.0.downsample.1.running_var"])
    assert not regressor.training


def test_another_architecture_is_named_by_key_expectation_and_finding(tmp_path):
    def error(change):
        state = tiny_hmr_state()
        change(state)
        torch.save({"model": state}, tmp_path / "x.pt")
        with pytest.raises(InputError) as caught:
            load_regressor(tmp_path / "x.pt")
        assert str(tmp_path / "x.pt") in str(caught.value)
        return str(caught.value)

    def put(key, value):
        return lambda state: state.__setitem__(key, value)

    assert "fc1.weight: expected a tensor of shape (32, 285), got (32, 284)" in error(put("fc1.weight", torch.zeros(32, 284)))
    assert "layer2.0.bn1.running_var: expected a tensor of shape (8,), got none" in error(
        lambda state: state.pop("layer2.0.bn1.running_var")
    )
    assert "layer4.0.conv1.bias: expected no such tensor" in error(put("layer4.0.conv1.bias", torch.zeros(32)))
    assert "layer1.0.conv3.weight" in error(lambda state: state.pop("layer1.0.conv3.weight"))  # ResNet-18 has none
    assert "layer3.1.conv1.weight" in error(put("layer3.5.conv1.weight", torch.zeros(1)))  # a block that others lack before it
    assert "decpose.weight" in error(lambda state: state.pop("decpose.weight"))
    assert "init_cam: expected finite" in error(put("init_cam", torch.tensor([[1.0, float("nan"), 0.0]])))
    assert "tensors by name, got int under 'epoch'" in error(put("epoch", 3))


def test_what_has_no_part_in_the_network_is_passed_over(tmp_path):
    state = tiny_hmr_state()
    state["smpl.faces"], state["fc.weight"] = torch.zeros(3), torch.zeros(1000, 128)
    del state["bn1.num_batches_tracked"]  # checkpoints from before torch 0.4.1
    build_regressor(state)


def test_pickles_that_hold_more_than_tensors_are_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save({"model": tiny_hmr_state(), "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="without running code"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not ran.exists()
    (tmp_path / "no.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"no\.pt: expected a checkpoint"):
        read_checkpoint(tmp_path / "no.pt")
    whole = tiny_hmr_checkpoint(tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.pt: expected a checkpoint"):
        read_checkpoint(tmp_path / "cut.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match=r"expected a \.safetensors file"):
        read_checkpoint(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="a file that exists"):
        read_checkpoint(tmp_path / "missing.pt")


def test_the_way_to_convert_that_the_error_names_works(tmp_path):
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    torch.save({"model": tiny_hmr_state(), "best": np.float64(51.7)}, old)
    with pytest.raises(InputError, match="numpy") as caught:
        load_regressor(old)
    code = re.search(r'python -c "(.*)"$', str(caught.value))[1]
    exec(code.replace("'IN'", repr(str(old))).replace("'OUT'", repr(str(new))), {})
    load_regressor(new)


def test_the_head_is_affine_and_corrects_the_mean_three_times():
    regressor = build_regressor(tiny_hmr_state())
    head = regressor.head.double()
    rng = np.random.default_rng(0)
    for part in (head.decpose, head.decshape, head.deccam):
        nn.init.normal_(part.weight, std=0.3)
    a, b = torch.from_numpy(rng.normal(size=(2, 5, 128)) * 3)
    with torch.no_grad():
        for at_a, at_b, between in zip(head(a), head(b), head(0.25 * a + 0.75 * b), strict=True):
            torch.testing.assert_close(between, 0.25 * at_a + 0.75 * at_b, rtol=0, atol=1e-10)
            assert (at_a - at_b).abs().max() > 0.1
    state = {k: v.numpy() for k, v in head.state_dict().items()}
    found = np.concatenate([state[f"init_{k}"].repeat(5, 0) for k in ("pose", "shape", "cam")], 1)
    for _ in range(3):
        x = np.concatenate([a.numpy(), found], 1)
        for layer in ("fc1", "fc2"):
            x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        found = found + np.concatenate(
            [x @ state[f"{k}.weight"].T + state[f"{k}.bias"] for k in ("decpose", "decshape", "deccam")], 1
        )
    np.testing.assert_allclose(torch.cat(head(a), 1).detach().numpy(), found, atol=1e-9)


def test_6d_rotations_are_two_columns_side_by_side():
    R = Rotation.random(50, random_state=0).as_matrix()
    a, b = R[..., 0], R[..., 1]
    pairs = np.stack([2.5 * a, 0.7 * b - 1.3 * a], -1)  # scaled, and the second with a share of the first
    np.testing.assert_allclose(rotations_from_6d(pairs.reshape(50, 6)), R, atol=1e-12)
    np.testing.assert_allclose(rotations_from_6d([1, 0, 0, 0, 0, 1]), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=0)
    assert np.isnan(rotations_from_6d([[0, 1, 0, 1, 0, 1], [1, 2, 1, 2, 1, 2]])).any((1, 2)).all()


def picture(pixels: np.ndarray, key: str = "a") -> Picture:
    return Picture(ImageRequest(key, "x"), pixels)


def noise(n: int, height: int = 200, width: int = 300) -> list[Picture]:
    rng = np.random.default_rng(1)
    return [picture(rng.integers(0, 256, (height, width, 3), np.uint8), f"{i}") for i in range(n)]


def estimator(tmp_path, *, still: bool = False, change=None, runtime: Runtime | None = None) -> hmr.HmrEstimator:
    """One on a tiny checkpoint; ``still``: it gives its mean, whatever it sees."""
    state = tiny_hmr_state()
    if still:
        for key in ("decpose", "decshape", "deccam"):
            state[f"{key}.weight"].zero_()
    if change is not None:
        change(state)
    torch.save(state, tmp_path / "hmr.pt")
    return registry.make("humans", f"hmr={tmp_path / 'hmr.pt'}", runtime or Runtime(body=BODY))


BOX = np.array([[60, 20, 140, 190]], np.float32)


def test_an_upright_person_who_faces_the_camera_is_turned_by_pi_about_x(tmp_path):
    (human,) = estimator(tmp_path, still=True).humans(noise(1), BOX)
    np.testing.assert_allclose(np.abs(human.orientation), [np.pi, 0, 0], atol=1e-3)
    np.testing.assert_allclose(human.pose, BODY.rest_pose, atol=1e-6)
    joints = dict(zip(BODY.joint_names, human.joints, strict=True))
    assert joints["head"][1] < joints["pelvis"][1] < joints["left_foot"][1]  # y down
    assert joints["left_wrist"][0] > joints["right_wrist"][0]  # facing us, their left is on the right
    side = 1.2 * 170
    expected = np.array([100, 105]) + side / 2 * 0.9 * np.array(hmr.SMPL_PELVIS[:2])
    np.testing.assert_allclose(joints["pelvis"], expected, atol=1e-4)
    span = np.ptp(BODY.rest_joints[:, 1])
    np.testing.assert_allclose(np.ptp(human.joints[:, 1]), span * 0.9 * side / 2, rtol=1e-5)


@pytest.mark.parametrize("projection", hmr.PROJECTIONS)
def test_joints_lie_where_the_regressors_own_software_projects_them(tmp_path, projection):
    rng = np.random.default_rng(3)
    turns = Rotation.from_rotvec(rng.normal(size=(24, 3)) * 0.4)
    matrices = turns.as_matrix()

    def change(state):
        state["init_pose"] = torch.from_numpy(matrices[:, :, :2].reshape(1, 144)).float()
        state["init_cam"] = torch.tensor([[0.8, 0.1, -0.2]])

    runtime = Runtime(body=BODY, options={"projection": projection, "crop_scale": "1.5"})
    (human,) = estimator(tmp_path, still=True, change=change, runtime=runtime).humans(noise(1), BOX)
    rotvec = turns.as_rotvec()
    np.testing.assert_allclose(human.pose[1:], rotvec[1:], atol=1e-5)
    np.testing.assert_allclose(human.orientation, rotvec[0], atol=1e-5)
    model = BODY.posed_joints(rotvec[None])[0] + hmr.SMPL_PELVIS  # turned about the pelvis, which stays; SMPL's origin
    if projection == "spin":
        z = model[:, 2:] + 2 * 5000 / (224 * 0.8)
        crop = 5000 * (model[:, :2] + [0.1, -0.2]) / z + 112
    else:
        crop = 112 * (0.8 * model[:, :2] + [0.1, -0.2]) + 112
    side = 1.5 * 170
    np.testing.assert_allclose(human.joints, crop * side / 224 + [100 - side / 2, 105 - side / 2], atol=2e-3)
    s, tx, ty = human.crop_camera
    weak = s * ((model - model[0])[:, :2] + [tx, ty]) * 112 + 112
    assert np.abs(weak - crop).max() < (2.0 if projection == "spin" else 1e-3)


def test_shape_goes_into_the_joints_where_the_body_has_it(tmp_path):
    body = shapely()

    def change(state):
        state["init_shape"] = torch.tensor([[1.5, 2.0, *[9.0] * 8]])  # more than the body has

    (human,) = estimator(tmp_path, still=True, change=change, runtime=Runtime(body=body)).humans(noise(1), BOX)
    np.testing.assert_allclose(human.betas, [1.5, 2.0, *[9.0] * 8])
    model = body.posed_joints(np.vstack([human.orientation[None], human.pose[1:]])[None], [[1.5, 2.0]])[0] + hmr.SMPL_PELVIS
    side = 1.2 * 170
    np.testing.assert_allclose(human.joints, [100, 105] + side / 2 * 0.9 * model[:, :2], atol=1e-3)


def test_small_people_and_unusable_predictions_are_refused(tmp_path):
    stage = estimator(tmp_path)
    boxes = np.array([[10, 10, 26, 20], [10, 10, 27, 20], [10, 10, 10, 90], [20, 30, 10, 90], [0, 0, 300, 200]], np.float32)
    found = stage.humans(noise(5), boxes)  # 1.2 * 16 < 20 <= 1.2 * 17
    assert [type(f) for f in found] == [Refusal, Human, Refusal, Refusal, Human]
    assert {f.reason for f in found if isinstance(f, Refusal)} == {"person too small"}
    strict = estimator(tmp_path, runtime=Runtime(body=BODY, options={"min_side": "300"}))
    assert [type(f) for f in strict.humans(noise(2), boxes[[1, 4]])] == [Refusal, Human]
    behind = estimator(tmp_path, still=True, change=lambda s: s.__setitem__("init_cam", torch.tensor([[-0.5, 0.0, 0.0]])))
    assert behind.humans(noise(1), BOX) == [Refusal("no 3D pose")]
    flat = estimator(tmp_path, still=True, change=lambda s: s["init_pose"][:, 6:12].zero_())
    assert flat.humans(noise(1), BOX) == [Refusal("no 3D pose")]
    with pytest.raises(InputError, match="boxes"):
        stage.humans(noise(2), BOX)
    assert stage.humans([], np.zeros((0, 4), np.float32)) == []


def test_what_is_found_depends_on_the_persons_pixels_alone(tmp_path):
    stage = estimator(tmp_path)
    pictures = noise(5)
    boxes = np.repeat(BOX, 5, 0) + np.arange(5, dtype=np.float32)[:, None]
    together = stage.humans(pictures, boxes)
    two = estimator(tmp_path, runtime=Runtime(body=BODY, batch_size=2)).humans(pictures, boxes)
    for i in range(5):
        (alone,) = stage.humans(pictures[i : i + 1], boxes[i : i + 1])
        for other in (alone, two[i]):
            np.testing.assert_allclose(together[i].pose, other.pose, atol=1e-5)
            np.testing.assert_allclose(together[i].joints, other.joints, atol=1e-3)
    assert np.abs(together[0].pose - together[1].pose).max() > 1e-4
    half = estimator(tmp_path, runtime=Runtime(body=BODY, dtype="bfloat16")).humans(pictures, boxes)
    assert np.abs(half[0].pose - together[0].pose).max() < 0.05


def test_the_network_sees_the_crop_in_rgb_normalised_as_imagenets(tmp_path):
    stage = estimator(tmp_path)
    got = []
    stage.regressor.backbone.register_forward_pre_hook(lambda module, inputs: got.append(inputs[0]))
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[:] = [255, 51, 0]  # red, a little green
    stage.humans([picture(pixels)], BOX)
    assert got[0].shape == (1, 3, 224, 224)
    expected = (np.array([1.0, 0.2, 0.0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(got[0][0, :, 112, 112], expected, atol=1e-6)
    outside = (0.0 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]  # the box is 80 wide, its crop 204: x < 0
    np.testing.assert_allclose(got[0][0, :, 112, 0], outside, atol=1e-6)


def test_bodies_with_joints_of_their_own(tmp_path):
    names = (*("left_index1" if n == "left_hand" else n for n in BODY.joint_names), "jaw")
    joints = np.vstack([BODY.joints, BODY.joints[15:16] + np.array([0, 0.05, 0.05])])
    weights = np.pad(BODY.weights, ((0, 0), (0, 1)))
    more = Body("more", BODY.vertices, BODY.faces, joints, [*BODY.parents, 15], weights, names)
    (human,) = estimator(tmp_path, runtime=Runtime(body=more)).humans(noise(1), BOX)
    (plain,) = estimator(tmp_path).humans(noise(1), BOX)
    assert human.pose.shape == (25, 3)
    assert not human.pose[[22, 24]].any()
    np.testing.assert_array_equal(human.pose[:22], plain.pose[:22])
    np.testing.assert_array_equal(human.pose[23], plain.pose[23])
    np.testing.assert_allclose(human.joints[:22], plain.joints[:22])
    other = Body("other", BODY.vertices, BODY.faces, BODY.joints, BODY.parents, BODY.weights, [f"j{i}" for i in range(24)])
    with pytest.raises(InputError, match=r"body.joint_names: expected SMPL's, got none named head"):
        estimator(tmp_path, runtime=Runtime(body=other))


def test_bad_choices_are_named(tmp_path, monkeypatch):
    path = tiny_hmr_checkpoint(tmp_path / "x.pt")
    for spec, runtime, message in (
        ("hmr", Runtime(body=BODY), "expected hmr=MODEL.*FrankMocap"),
        (f"hmr={path}", Runtime(), "body: expected"),
        (f"hmr={path}", Runtime(body=BODY, options={"projection": "x"}), "frankmocap or spin, got 'x'"),
        (f"hmr={path}", Runtime(body=BODY, options={"crop_scale": "9"}), "crop_scale"),
        (f"hmr={path}", Runtime(body=BODY, options={"colour": "9"}), "colour"),
    ):
        with pytest.raises(InputError, match=message):
            registry.make("humans", spec, runtime)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers, which is not installed: pip install '\.\[frontend\]' in a checkout"):
        registry.make("humans", f"hmr={path}", Runtime(body=BODY))
