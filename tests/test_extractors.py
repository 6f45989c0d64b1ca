"""Networks: shapes, guides, what is computed, frames, sampling, boxes, weight files."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from horefine.anatomy import vertex_normals
from horefine.data.mirror import mirror_features, mirror_sample
from horefine.errors import AssetError, ConfigError, InputError
from horefine.extractors import FEATURES, Learned, load_default, load_model
from horefine.extractors.batches import Augmentation, Batch, augment_color, augment_view
from horefine.extractors.crops import map_camera, pictures
from horefine.extractors.detector import Detector, detect, generalised_iou, letterbox
from horefine.extractors.encoder_decoder import COMPACT, HEADS, PAPER, FeatureNet, needed_heads
from horefine.extractors.field import density, point_features, to_grid
from horefine.extractors.hoisdf import OFFICIAL, Hoisdf, HoisdfConfig, Points
from horefine.extractors.hoisdf_task import hand_distance, posed_hand
from horefine.extractors.initial import HoisdfInitializer, predict
from horefine.extractors.joints import heat_maps
from horefine.extractors.maps import MapExtractor
from horefine.extractors.measures import dense_matches, procrustes
from horefine.extractors.picture import PictureExtractor
from horefine.extractors.resnet import ResNet
from horefine.extractors.root import Frame
from horefine.extractors.unet import UNetConfig
from horefine.extractors.weights import default_path, read_weights, save_weights
from horefine.geometry import Camera, axis_angle_to_matrix, project
from horefine.hand import load_hand
from horefine.objects import OBJECTS, embedded_object
from horefine.scene import Features
from tests.toy_shard import toy_pose

TINY = dataclasses.replace(COMPACT, width=8, decoder=(16, 16, 8), head_width=8)
TINY_HOISDF = HoisdfConfig(
    width=8, unet=UNetConfig((16, 16, 8), (16, 16, 8), (), 16, ()), hidden=64, feedforward=64, token_mlp=(32,),
    field_mlp=(32, 16), field_width=64, hand_points=24, object_points=16, grid=33,
)  # fmt: skip


@pytest.fixture(scope="module")
def hand():
    return load_hand(kind="embedded")


@pytest.fixture
def features_net() -> FeatureNet:
    torch.manual_seed(0)
    return FeatureNet(TINY).eval()


@pytest.fixture(scope="module")
def hoisdf_net() -> Hoisdf:
    torch.manual_seed(0)
    return Hoisdf(TINY_HOISDF).eval()


def crops(count: int):
    """Crops of noise with a camera and an object."""
    from horefine.data import Sample

    generator = torch.Generator().manual_seed(1)
    camera = Camera(torch.tensor([[[500.0, 0, 60], [0, 500, 200], [0, 0, 1]]]), (256, 256))
    return [
        Sample(f"s{i}", torch.rand(3, 256, 256, generator=generator), camera, embedded_object(OBJECTS[i % 2]))
        for i in range(count)
    ]


# --- encoders and maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "channels", "last"),
    [(18, (64, 64, 128, 256, 512), "layer4.1.bn2.weight"), (50, (64, 256, 512, 1024, 2048), "layer4.2.bn3.weight")],
)
def test_resnet_has_torchvisions_names_and_strides(depth, channels, last):
    net = ResNet(depth).eval()
    names = net.state_dict()
    for name in ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight", last):
        assert name in names
    # torchvision counts 11.69 M and 25.56 M, of which the classifier has 0.51 M and 2.05 M
    million = sum(p.numel() for p in net.parameters()) / 1e6
    assert million == pytest.approx({18: 11.18, 50: 23.51}[depth], abs=0.01)
    with torch.no_grad():
        maps = net(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == list(channels) == list(net.channels)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize(
    "config", [TINY, dataclasses.replace(PAPER, width=4, decoder=(8, 8, 8), bottleneck=8, head_width=8)]
)
def test_feature_maps_have_the_size_of_the_maps(config):
    net = FeatureNet(config).eval()
    with torch.no_grad():
        maps = FeatureNet.activate(net(torch.rand(2, 3, config.size, config.size)))
    assert config.map_size == 64
    for name, head in HEADS.items():
        assert maps[name].shape == (2, head.channels, 64, 64)
    assert torch.allclose(maps["segmentation"].sum(1), torch.ones(2, 64, 64), atol=1e-5)
    for name in ("joints", "hand_coords", "object_coords"):
        assert maps[name].min() >= 0 and maps[name].max() <= 1
    assert (len(net.trunks) == 1) == config.shared_encoder


def test_guides_are_those_of_the_paper(features_net):
    """A change of the segmentation reaches every map, a change of the joints the hand's dense map only."""
    image = torch.rand(1, 3, 128, 128)

    def reached(changed: str) -> set[str]:
        with torch.no_grad():
            before = features_net(image)
            bias = features_net.heads[changed][1].bias
            bias += torch.linspace(-3, 3, len(bias))
            after = features_net(image)
        return {name for name in HEADS if not torch.equal(before[name], after[name])}

    assert reached("joints") == {"joints", "hand_coords"}
    assert reached("segmentation") == set(HEADS)


def test_only_what_is_asked_for_is_computed(features_net):
    ran: list[str] = []
    for name, head in features_net.heads.items():
        head[0].register_forward_hook(lambda *_, name=name: ran.append(name))
    extractor = MapExtractor(model=features_net)
    found = extractor.extract(crops(1), ["depth"])
    assert set(found) == {"depth"} and ran == ["segmentation", "depth"]
    ran.clear()
    extractor.extract(crops(1), ["hand_mask", "object_coords"])
    assert ran == ["segmentation", "object_coords"]
    assert needed_heads(["hand_coords"]) == ["segmentation", "joints", "hand_coords"]


def test_object_size_is_heard_where_it_is_known(features_net):
    torch.nn.init.normal_(features_net.trunks["shared"].condition.weight)
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        unknown, zero = features_net(image), features_net(image, torch.zeros(1, 3))
        small, large = (features_net(image, torch.full((1, 3), size)) for size in (0.05, 0.2))
    assert torch.equal(unknown["depth"], zero["depth"])
    assert not torch.allclose(small["depth"], large["depth"])


def test_maps_do_not_depend_on_neighbours_and_repeat(features_net):
    three = crops(3)
    extractor = MapExtractor(model=features_net)
    names = ["hand_mask", "object_mask", "hand_coords", "object_coords", "depth"]
    together, again, alone = (
        extractor.extract(three, names),
        extractor.extract(three, names),
        extractor.extract(three[1:2], names),
    )
    for name in names:
        assert torch.equal(together[name], again[name])
        torch.testing.assert_close(together[name][1:2], alone[name], atol=1e-5, rtol=1e-4)


def test_codes_and_depth_are_zero_outside_what_is_seen(features_net):
    found = MapExtractor(model=features_net).extract(crops(2), list(FEATURES)[:5])
    hand = found["hand_mask"] > 0.5
    assert not found["hand_coords"].masked_select(~hand[:, None]).any()
    assert not found["object_coords"].masked_select(hand[:, None]).any()


def test_heat_maps_peak_at_the_joint_and_skip_what_is_not_there():
    maps = heat_maps(torch.tensor([[[10.0, 20.0], [float("nan"), 3.0], [500.0, 500.0]]]), (64, 64))
    assert maps[0, 0].argmax() == 20 * 64 + 10 and maps[0, 0].max() == 1
    assert maps[0, 1:].abs().max() < 1e-6


def test_dense_matches_of_exact_and_shifted_maps():
    ys, xs = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    code = torch.stack([xs, ys, xs * 0])[None] / 64
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:50, 10:50] = 1
    assert dense_matches(code, mask, code, mask) == 1.0
    assert dense_matches(code.roll(2, -1), mask, code, mask) == 1.0  # two pixels aside
    assert dense_matches(code.roll(5, -1), mask, code, mask) < 0.2  # at the border the nearest is near
    assert dense_matches(code, mask * 0, code, mask) == 0.0


# --- HOISDF -----------------------------------------------------------------------------------------------------------


def test_official_sizes_have_the_official_names():
    """A sample of the published checkpoint's 699 tensors that inference uses (without the hand layer)."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Hoisdf(OFFICIAL).state_dict().items()}
    assert shapes["backbone_net.resnet.layer4.2.bn3.weight"] == (2048,)
    assert shapes["decoder_net.resnet_decoder.conv0d.0.weight"] == (512, 2048, 1, 1)
    assert shapes["decoder_net.resnet_decoder.deconv1.0.weight"] == (2048, 256, 4, 4)
    assert shapes["decoder_net.resnet_decoder.conv4.0.weight"] == (32, 96, 3, 3)
    assert shapes["decoder_net.resnet_decoder.convOut_hand_seg.3.weight"] == (1, 32, 1, 1)
    assert shapes["hand_sdf_decoder.linh1.parametrizations.weight.original1"] == (223, 512)
    assert shapes["hand_transformer.encoder.layers.5.self_attn.in_proj_weight"] == (768, 256)
    assert shapes["hand_transformer.decoder.layers.3.multihead_attn.out_proj.bias"] == (256,)
    assert shapes["obj_transformer.encoder.inter_norm.weight"] == (256,)
    assert shapes["linear_transformerin.layers.0.weight"] == (1024, 992)
    assert shapes["linear_handvote.layers.3.weight"] == (60, 256)
    assert shapes["mano_query_embed.weight"] == (17, 256)
    assert len(shapes) == 699


def test_density_is_centred_and_has_the_sign_asked_for():
    distance, beta = torch.tensor([[-0.2, 0.0, 0.2]]), torch.tensor([0.1])
    assert density(distance, beta)[0, 1] == pytest.approx(5.0)
    assert density(distance, beta, 1.0)[0].diff().min() > 0 > density(distance, beta, -1.0)[0].diff().max()
    assert torch.isfinite(density(distance, torch.tensor([-1.0]))).all()  # beta has a floor


def test_points_read_the_pixel_they_are_seen_at():
    frame = Frame.of(torch.tensor([[[100.0, 0, 31.5], [0, 100, 31.5], [0, 0, 1]]]), 64, turned=False)
    xs = (torch.arange(64) * 2.0 + 1) / 64 - 1
    level = xs.expand(1, 1, 64, 64)
    points = torch.tensor([[[0.0, 0, 1], [0.1, 0, 1], [-0.05, 0.02, 0.5], [0, 0, -1.0]]])
    read = point_features([level], to_grid(points, frame.projection))[0, :, 0]
    assert torch.allclose(read[:3], torch.tensor([0.0, 20 / 64, -20 / 64]), atol=1e-5)
    assert read[3] == pytest.approx(float(xs[-1]))  # behind the camera: somewhere harmless


def test_frame_looks_at_the_middle_of_the_crop_and_projects_as_the_camera():
    matrix = torch.tensor([[[300.0, 0, -40], [0, 300, 100], [0, 0, 1]], [[80.0, 0, 31.5], [0, 80, 31.5], [0, 0, 1]]])
    frame = Frame.of(matrix, 64)
    eye = torch.eye(3).expand(2, 3, 3)
    assert torch.allclose(frame.rotation @ frame.rotation.mT, eye, atol=1e-6)
    assert torch.allclose(frame.rotation[1], eye[1], atol=1e-6)
    points = torch.randn(2, 9, 3) * 0.1 + torch.tensor([0.1, -0.1, 0.7])
    grid = to_grid(points @ frame.rotation.mT, frame.projection)
    assert torch.allclose(grid, (2 * project(points, matrix) + 1) / 64 - 1, atol=1e-5)
    assert torch.allclose(
        to_grid(torch.tensor([0, 0, 0.5]).expand(2, 1, 3), frame.projection), torch.zeros(2, 1, 2), atol=1e-5
    )
    depth = torch.tensor([0.4, 0.9])
    point = frame.backproject(torch.tensor([[0.3, -0.2], [0.0, 0.5]]), depth)
    assert torch.allclose(point[:, 2], depth)
    assert torch.allclose(
        to_grid(point[:, None], frame.projection)[:, 0], torch.tensor([[0.3, -0.2], [0.0, 0.5]]), atol=1e-5
    )


def test_hand_distance_agrees_with_the_exact_one(hand):
    from horefine.distance import signed_distance

    pose = toy_pose(2, 0)
    rotations = axis_angle_to_matrix(pose.hand_rotvec)
    vertices, joints = posed_hand(hand, rotations, pose.hand_shape)
    true = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    assert torch.allclose(vertices, true.vertices - true.joints[:, :1], atol=1e-5)
    assert torch.allclose(joints, true.joints - true.joints[:, :1], atol=1e-5)
    points = vertices[:, ::3] + 0.03 * (2 * torch.rand(2, 260, 3, generator=torch.Generator().manual_seed(0)) - 1)
    found = hand_distance(points, vertices, vertex_normals(vertices, hand.faces))
    for i in range(2):
        exact = torch.from_numpy(signed_distance(points[i].numpy(), vertices[i].numpy(), hand.faces.numpy()))
        error = (found[i] - exact).abs()
        assert error.median() < 0.001 and error.quantile(0.9) < 0.003
        assert ((found[i] < 0) == (exact < 0)).float().mean() > 0.95


def test_hoisdf_predicts_poses_alike_in_any_batch(hoisdf_net, hand):
    batch = crops(3)
    initializer = HoisdfInitializer(model=hoisdf_net, hand=hand)
    names = ("hand_sdf", "object_sdf")
    together, fields = initializer.initialize(batch, names)
    again, _ = initializer.initialize(batch)
    alone, own = initializer.initialize(batch[2:], names)
    for name, value in together.items():
        assert torch.isfinite(value).all()
        assert torch.equal(value, getattr(again, name))
        torch.testing.assert_close(value[2:], getattr(alone, name), atol=1e-4, rtol=1e-3)
    assert set(fields) == {"pose_spread", "hand_sdf", "object_sdf"}
    assert fields["hand_sdf"].values.shape == (3, 33, 33, 33)
    torch.testing.assert_close(fields["object_sdf"].values[2:], own["object_sdf"].values, atol=1e-4, rtol=1e-3)
    assert set(initializer.initialize(batch[:1])[1]) == {"pose_spread"}
    assert set(initializer.extract(batch[:1], ["object_sdf"])) == {"object_sdf"}


def test_predicted_pose_is_where_the_root_head_says(hoisdf_net, hand):
    image, matrix = torch.rand(2, 3, 128, 128), torch.tensor([[250.0, 0, 10], [0, 250, 90], [0, 0, 1]]).expand(2, 3, 3)
    found = predict(hoisdf_net, image, matrix, 128, torch.full((2, 3), 0.1))
    pose = found.pose(hand, torch.tensor([[0.01, 0.02, 0.03]]).expand(2, 3))
    posed = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl)
    root = found.seen.root
    assert root is not None
    pixels = (project(posed.joints[:, :1], matrix)[:, 0] * 2 + 1) / 128 - 1
    assert torch.allclose(pixels, root.grid[:, 0], atol=1e-4)
    centre = (found.object_rotation @ torch.tensor([0.01, 0.02, 0.03])) + pose.object_transl
    assert torch.allclose(centre, found.object_center, atol=1e-5)


def test_cross_field_tokens_matter(hoisdf_net):
    """The object's points reach the hand's result, and the other way round."""
    frame = Frame.of(torch.tensor([[[100.0, 0, 31.5], [0, 100, 31.5], [0, 0, 1]]]), 64)
    with torch.no_grad():
        seen = hoisdf_net.see(torch.rand(1, 3, 128, 128), None, frame.focal)
        center = torch.tensor([[0.0, 0, 0.5]])

        def at(which: str, offset: float, count: int) -> Points:
            position = center[:, None] + offset + torch.linspace(0, 0.05, count)[None, :, None]
            return hoisdf_net.field(which, seen, position, center, frame.projection)

        hand_points, near, far = at("hand", 0.0, 24), at("object", 0.0, 16), at("object", 0.06, 16)
        first, second = (hoisdf_net.pose(seen, hand_points, other, center, center) for other in (near, far))
        third = hoisdf_net.pose(seen, at("hand", 0.06, 24), near, center, center)
    assert not torch.allclose(first.rotations, second.rotations, atol=1e-6)
    assert not torch.allclose(first.object_center, third.object_center, atol=1e-6)


# --- views and colours ------------------------------------------------------------------------------------------------


def toy_batch(hand, count: int = 4) -> Batch:
    pose = toy_pose(count, 3)
    joints = hand(pose.hand_rotvec, pose.hand_shape, pose.hand_transl).joints
    matrix = torch.tensor([[150.0, 0, 20], [0, 150, 50], [0, 0, 1]]).expand(count, 3, 3)
    maps = {n: torch.zeros(count, 64, 64) for n in ("hand_mask", "object_mask", "depth")}
    maps |= {n: torch.zeros(count, 3, 64, 64) for n in ("hand_coords", "object_coords")}
    for i, (u, v) in enumerate(project(joints[:, 9], matrix).round().int().tolist()):
        if 1 <= u < 63 and 1 <= v < 63:
            maps["hand_mask"][i, v - 1 : v + 2, u - 1 : u + 2] = 1
    center = pose.object_transl.clone()
    return Batch(
        torch.rand(count, 3, 128, 128),
        maps,
        matrix,
        pose,
        joints,
        center,
        torch.zeros(count).long(),
        torch.full((count, 3), 0.1),
    )


def test_a_changed_view_is_a_true_view(hand):
    """The new pose, posed and seen by the new camera, lies where the picture was moved to."""
    batch = toy_batch(hand)
    rest = hand.rest_joints(batch.pose.hand_shape)[:, 0]
    moved = augment_view(batch, Augmentation(), rest, torch.Generator().manual_seed(0))
    posed = hand(moved.pose.hand_rotvec, moved.pose.hand_shape, moved.pose.hand_transl)
    assert torch.allclose(posed.joints, moved.joints, atol=1e-5)
    assert not torch.allclose(moved.joints, batch.joints, atol=1e-2)
    assert torch.allclose(moved.joints[..., 2], batch.joints[..., 2], atol=1e-6)  # depths stay
    # a similarity of the picture: distances between pixels all grow alike
    before, after = project(batch.joints, batch.matrix), project(moved.joints, moved.matrix)
    ratio = torch.cdist(after, after) / torch.cdist(before, before).clamp(min=1e-3)
    for i in range(4):
        chosen = torch.cdist(before, before)[i] > 1
        assert ratio[i][chosen].std() < 1e-3 * ratio[i][chosen].mean()
    # and the maps went along
    for i, (u, v) in enumerate(after[:, 9].tolist()):
        if batch.maps["hand_mask"][i].any() and 2 < u < 61 and 2 < v < 61:
            ys, xs = moved.maps["hand_mask"][i].nonzero(as_tuple=True)
            assert abs(float(xs.float().mean()) - u) < 1 and abs(float(ys.float().mean()) - v) < 1


def test_no_augmentation_changes_nothing(hand):
    none = Augmentation(*[0.0] * len(dataclasses.fields(Augmentation)))
    batch = toy_batch(hand)
    rest = hand.rest_joints(batch.pose.hand_shape)[:, 0]
    same = augment_view(batch, none, rest, torch.Generator())
    torch.testing.assert_close(same.image, batch.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(same.pose.hand_rotvec, batch.pose.hand_rotvec, atol=1e-5, rtol=0)
    torch.testing.assert_close(augment_color(batch.image, none, torch.Generator()), batch.image, atol=1e-5, rtol=0)


def test_procrustes_undoes_a_similarity():
    points = torch.randn(3, 21, 3)
    turned = 1.3 * points @ axis_angle_to_matrix(torch.randn(3, 3)).mT + torch.randn(3, 1, 3)
    torch.testing.assert_close(procrustes(turned, points), points, atol=1e-4, rtol=0)


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_letterbox_is_the_whole_picture_in_a_grey_square():
    image = torch.zeros(3, 30, 60)
    square, box = letterbox(image, 128)
    assert square.shape == (3, 128, 128) and box == (-0.5, -15.5, 59.5, 44.5)
    assert square[:, :30].mean() == pytest.approx(127 / 255, abs=1e-3) and square[:, 40:88].max() == 0


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (8, 300)])
def test_detected_boxes_lie_in_the_picture(size):
    torch.manual_seed(0)
    model = Detector().eval()
    for box in detect(model, [torch.rand(3, *size)])[0]:
        x0, y0, x1, y1 = box
        assert -0.5 <= x0 < x1 <= size[1] - 0.5 and -0.5 <= y0 < y1 <= size[0] - 0.5


def test_generalised_overlap_of_known_boxes():
    box = torch.tensor([0.0, 0, 1, 1])
    assert generalised_iou(box, box) == pytest.approx(1)
    assert generalised_iou(box, torch.tensor([0.5, 0, 1.5, 1])) == pytest.approx(1 / 3)
    assert generalised_iou(box, torch.tensor([2.0, 0, 3, 1])) == pytest.approx(-1 / 3)


# --- weight files and names -------------------------------------------------------------------------------------------


def test_weights_come_back_with_sizes_and_numbers(tmp_path, features_net):
    path = tmp_path / "features.safetensors"
    save_weights(path, features_net.state_dict(), "features", TINY, {"hand_iou": 0.5})
    weights = read_weights(path, "features")
    assert weights.validation == {"hand_iou": 0.5} and weights.network["width"] == 8
    net = load_model(path, "features")
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(net(image)["depth"], features_net(image)["depth"], atol=1e-2, rtol=1e-2)
    assert not net.training and not list(tmp_path.glob(".*"))


def _broken(kind: str, path, net) -> None:
    tensors = net.state_dict()
    if kind == "text":
        path.write_text("not weights")
    elif kind == "truncated":
        save_weights(path, tensors, "features", TINY, {})
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "other task":
        save_weights(path, tensors, "hoisdf", TINY, {})
    elif kind == "not finite":
        name = "trunks.shared.encoder.conv1.weight"
        save_weights(path, {**tensors, name: tensors[name] * torch.nan}, "features", TINY, {})
    elif kind == "other sizes":
        save_weights(path, tensors, "features", COMPACT, {})
    elif kind == "missing tensor":
        save_weights(path, dict(list(tensors.items())[10:]), "features", TINY, {})
    elif kind == "plain safetensors":
        save_file({"a": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("absent", "no such file"), ("text", "damaged"), ("truncated", "damaged"), ("other task", "made for 'hoisdf'"),
     ("not finite", "not finite"), ("other sizes", "do not fit"), ("missing tensor", "do not fit"),
     ("plain safetensors", "something else")],
)  # fmt: skip
def test_a_bad_weight_file_says_what_is_wrong_and_what_to_do(tmp_path, features_net, kind, said):
    path = tmp_path / "w.safetensors"
    _broken(kind, path, features_net)
    with pytest.raises(AssetError, match=said) as caught:
        load_model(path, "features")
    assert "train" in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("task", ["features", "hoisdf", "detector", "contact"])
def test_shipped_weights_load_and_are_small(task):
    path = default_path(task)
    assert path.stat().st_size < 25e6
    weights = read_weights(path, task)
    assert weights.validation and json.dumps(weights.network)
    assert load_default(task) is load_default(task)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'hoisdf'"):
        Learned("hoisfd")
    with pytest.raises(ConfigError, match="cannot be imported"):
        Learned("nowhere.at_all:Thing")
    with pytest.raises(ConfigError, match="did you mean 'depth'"):
        Learned().features(crops(1), ["dept"])


def test_bad_crops_are_refused():
    good = crops(1)[0]
    with pytest.raises(InputError, match="cut a square"):
        pictures([dataclasses.replace(good, image=torch.zeros(3, 10, 20))], 128)
    with pytest.raises(InputError, match="not finite"):
        pictures([dataclasses.replace(good, image=torch.full((3, 64, 64), torch.nan))], 128)


# --- the photograph ---------------------------------------------------------------------------------------------------


def test_the_photograph_is_a_feature_that_needs_no_network(hand):
    some = crops(2)
    found = Learned(hand=hand).features(some, ["image"])
    assert found.image.shape == (2, 3, 64, 64) and found.camera.size == (64, 64) and found.hand_mask is None
    srgb = some[1].image[:, 4:8, 8:12].double()
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).mean((1, 2))
    torch.testing.assert_close(found.image[1, :, 1, 2].double(), linear, atol=1e-5, rtol=0)


def test_the_photograph_of_a_left_hand_is_mirrored_like_its_maps():
    crop = crops(1)[0]
    straight, mirrored = (PictureExtractor().extract([s], ["image"])["image"] for s in (crop, mirror_sample(crop)))
    torch.testing.assert_close(mirrored, straight.flip(-1))
    features = Features(map_camera([crop]), crop.mesh, image=straight)
    other = mirror_features(features)
    assert torch.equal(other.image, straight.flip(-1))
    torch.testing.assert_close(other.camera.matrix, map_camera([mirror_sample(crop)]).matrix)
    point = torch.tensor([[[0.03, -0.02, 0.5]]])  # the light at a point stays at the point
    u, v = project(point, features.camera.matrix)[0, 0].round().long()
    x, y = project(point * torch.tensor([-1.0, 1, 1]), other.camera.matrix)[0, 0].round().long()
    assert torch.equal(other.image[0, :, y, x], straight[0, :, v, u])
