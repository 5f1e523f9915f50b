import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slidemill.config.slides import UnetConfig
from slidemill.errors import ConfigError, UserError, WeightsError
from slidemill.tissue.classes import TissueClass
from slidemill.tissue.unet import Segmenter, load_segmenter

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
TINY = UnetConfig(architecture="unet", backbone="tu-resnet18", tile_px=64, device="cpu")
TORCHVISION = UnetConfig(
    architecture="torchvision-deeplabv3",
    backbone="resnet50",
    classes=("glass", "tissue"),
    tile_px=64,
    mpp=1.0,
    device="cpu",
)


@pytest.fixture(scope="module")
def tissue_pixels():
    """Noise of the kind that makes every window of a random network differ, (233, 310, 3)."""
    return np.random.default_rng(7).integers(0, 256, (233, 310, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tiny_state():
    import segmentation_models_pytorch as smp

    torch.manual_seed(3)
    network = smp.Unet("tu-resnet18", encoder_weights=None, classes=2)
    return {key: value.contiguous() for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory, tiny_state):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(tiny_state, path)
    return path


class Reader:
    """Windows of an image, white outside, and what was asked for."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.asked = []

    def __call__(self, x, y, width, height):
        self.asked.append((x, y, width, height))
        window = np.full((height, width, 3), 255, np.uint8)
        rows = slice(max(y, 0), max(y + height, 0))
        columns = slice(max(x, 0), max(x + width, 0))
        seen = self.pixels[rows, columns]
        top, left = rows.start - y, columns.start - x
        window[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        return window


class Neighbourhood(nn.Module):
    """Three classes from sums over `2 * reach + 1` pixels square; its outputs are exact."""

    def __init__(self, reach):
        super().__init__()
        size = 2 * reach + 1
        self.conv = nn.Conv2d(3, 3, size, padding=reach, bias=False)
        kernel = torch.randint(-4, 5, (3, 3, size, size), generator=torch.manual_seed(reach))
        # Whole numbers of 1/256 add up without rounding, in any order.
        self.conv.weight = nn.Parameter(kernel.float())

    def forward(self, x):
        return self.conv((x * 255).round() / 256)


def whole(network, pixels, values):
    """Classes of the whole image at once, on white ground."""
    framed = np.pad(pixels, ((32, 32), (32, 32), (0, 0)), constant_values=255)
    with torch.inference_mode():
        batch = torch.from_numpy(framed).permute(2, 0, 1)[None].float() / 255
        classes = network(batch).argmax(1)[0].numpy()
    return np.asarray(values, np.uint8)[classes[32:-32, 32:-32]]


def first_window(network, config, pixels):
    """What a network of 64 px makes of a slide's first window, normalised here by numpy."""
    window = Reader(pixels)(-8, -8, 64, 64).transpose(2, 0, 1)[None] / np.float32(255)
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in (config.mean, config.std))
    with torch.inference_mode():
        return network(torch.from_numpy(((window - mean) / std).astype(np.float32)))


@pytest.mark.parametrize("reach", [0, 1, 8])
@pytest.mark.parametrize("size", [(233, 310), (48, 48), (49, 97), (5, 3), (1, 700)])
def test_windows_leave_no_seam(tissue_pixels, reach, size):
    config = UnetConfig(tile_px=64, classes=("tissue", "glass", "pen"), **PLAIN)
    pixels = np.resize(tissue_pixels, (*size, 3))
    segmenter = Segmenter(Neighbourhood(reach), config, "cpu")
    assert segmenter.margin == 8
    found = segmenter.predict(Reader(pixels), size[1], size[0])
    assert found.dtype == np.uint8
    values = (TissueClass.TISSUE, TissueClass.GLASS, TissueClass.PEN)
    assert np.array_equal(found, whole(Neighbourhood(reach), pixels, values))
    assert reach < 8 or len(np.unique(found)) > 1


def test_a_network_that_sees_further_than_the_margin_does_show_seams(tissue_pixels):
    config = UnetConfig(tile_px=64, classes=("tissue", "glass", "pen"), **PLAIN)
    segmenter = Segmenter(Neighbourhood(12), config, "cpu")
    found = segmenter.predict(Reader(tissue_pixels), 310, 233)
    values = (TissueClass.TISSUE, TissueClass.GLASS, TissueClass.PEN)
    assert not np.array_equal(found, whole(Neighbourhood(12), tissue_pixels, values))


def test_reads_are_bounded_and_cover_the_slide_once(tissue_pixels):
    config = UnetConfig(tile_px=512, classes=("tissue", "glass", "pen"), **PLAIN)
    reader = Reader(tissue_pixels)
    Segmenter(Neighbourhood(0), config, "cpu").predict(reader, 4000, 500)
    # 384 px cores: eleven columns as eight and three, two rows.
    assert reader.asked == [
        (x - 64, y - 64, columns * 384 + 128, 512)
        for y in (0, 384)
        for x, columns in ((0, 8), (8 * 384, 3))
    ]


def test_a_name_that_is_there_twice_and_the_normalisation():
    class Brightness(nn.Module):
        """Output 0 to 3 by the normalised red value."""

        def forward(self, x):
            wanted = torch.tensor([-2.0, -1.0, 1.0, 2.0]).view(1, 4, 1, 1)
            return {"out": -((x[:, :1] - wanted) ** 2)}

    config = UnetConfig(
        tile_px=64,
        classes=("black", "other", "tissue", "other"),
        mean=(0.5, 0.0, 0.0),
        std=(0.25, 1.0, 1.0),
    )
    pixels = np.zeros((1, 4, 3), np.uint8)
    pixels[0, :, 0] = (0, 64, 191, 255)
    found = Segmenter(Brightness(), config, "cpu").predict(Reader(pixels), 4, 1)
    assert found.tolist() == [[3, 4, 1, 4]]


def test_dropout_and_batch_statistics_are_off(tissue_pixels):
    torch.manual_seed(1)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))
    config = UnetConfig(tile_px=64, **PLAIN)
    segmenter = Segmenter(network.train(), config, "cpu")
    first, second = (segmenter.predict(Reader(tissue_pixels), 310, 233) for _ in range(2))
    assert np.array_equal(first, second)
    assert int(network[0].num_batches_tracked) == 0


def test_a_network_of_the_other_shape_or_of_nan_is_refused(tissue_pixels):
    reader = Reader(tissue_pixels)
    three = UnetConfig(tile_px=64, classes=("tissue", "glass", "pen"), **PLAIN)
    with pytest.raises(WeightsError, match=r"gave \(1, 2, 64, 64\) where \(1, 3, 64, 64\)"):
        Segmenter(nn.Conv2d(3, 2, 1), three, "cpu").predict(reader, 9, 9)
    broken = nn.Conv2d(3, 2, 1)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        Segmenter(broken, UnetConfig(tile_px=64), "cpu").predict(reader, 9, 9)
    with pytest.raises(ValueError, match="was read as"):
        Segmenter(nn.Conv2d(3, 2, 1), UnetConfig(tile_px=64), "cpu").predict(
            lambda x, y, w, h: np.zeros((h, w, 4), np.uint8), 9, 9
        )


def test_smp_weights_load_and_predict(tiny_file, tissue_pixels):
    import segmentation_models_pytorch as smp

    found = load_segmenter(TINY, tiny_file, "cpu").predict(Reader(tissue_pixels), 40, 40)
    torch.manual_seed(3)
    network = smp.Unet("tu-resnet18", encoder_weights=None, classes=2).eval()
    logits = first_window(network, TINY, tissue_pixels)[0]
    margin = (logits[0] - logits[1]).numpy()[8:48, 8:48]
    sure = np.abs(margin) > 1e-3
    assert sure.mean() > 0.9
    assert np.array_equal((found == TissueClass.TISSUE)[sure], (margin > 0)[sure])
    assert set(np.unique(found)) == {TissueClass.GLASS, TissueClass.TISSUE}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {"state_dict": {f"model.{key}": value for key, value in s.items()}},
        lambda s: {f"_orig_mod.module.{key}": value for key, value in s.items()},
        lambda s: s | {"classification_head.3.weight": torch.zeros(2, 2)},
    ],
    ids=["bare", "state_dict", "module", "lightning", "compiled", "auxiliary"],
)
def test_known_wrappings_of_a_checkpoint_load(tmp_path, tiny_state, tiny_file, tissue_pixels, wrap):
    path = tmp_path / "network.ckpt"
    torch.save(wrap(tiny_state), path)
    found, expected = (
        load_segmenter(TINY, weights, "auto").predict(Reader(tissue_pixels), 30, 20)
        for weights in (path, tiny_file)
    )
    assert np.array_equal(found, expected)


def test_torchvision_weights_with_an_auxiliary_head_load(tmp_path, tissue_pixels):
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(5)
    network = deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=2, aux_loss=True
    ).eval()
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    assert any("aux_classifier" in key for key in state)
    path = tmp_path / "hest-like.ckpt"
    torch.save({"state_dict": state, "epoch": 1}, path)
    found = load_segmenter(TORCHVISION, path, "cpu").predict(Reader(tissue_pixels), 48, 48)
    logits = first_window(network, TORCHVISION, tissue_pixels)["out"]
    assert np.array_equal(found, logits.argmax(1)[0, 8:56, 8:56].numpy())
    wrong = TORCHVISION.model_copy(update={"classes": ("glass", "tissue", "pen")})
    with pytest.raises(WeightsError, match=r"has 2 outputs, .* names 3 \(glass, tissue, pen\)"):
        load_segmenter(wrong, path, "cpu")
    with pytest.raises(WeightsError, match="not the weights of torchvision-deeplabv3 with resnet1"):
        load_segmenter(TORCHVISION.model_copy(update={"backbone": "resnet101"}), path, "cpu")
    with pytest.raises(ConfigError, match=r"tissue\.unet\.backbone.*Use resnet50 or resnet101"):
        load_segmenter(TORCHVISION.model_copy(update={"backbone": "resnet18"}), path, "cpu")


@pytest.mark.parametrize(
    ("architecture", "network"),
    [("unetplusplus", "UnetPlusPlus"), ("fpn", "FPN"), ("deeplabv3plus", "DeepLabV3Plus")],
)
def test_networks_of_other_architectures_load_only_as_themselves(tmp_path, architecture, network):
    import segmentation_models_pytorch as smp

    backbone = "timm-efficientnet-b0"
    model = getattr(smp, network)(backbone, encoder_weights=None, classes=8)
    path = tmp_path / "eight.pth"
    torch.save(model.state_dict(), path)
    classes = ("glass", "tissue", "other", "other", "pen", "other", "other", "glass")
    config = UnetConfig(architecture=architecture, backbone=backbone, classes=classes, tile_px=64)
    white = Reader(np.full((9, 9, 3), 255, np.uint8))
    assert load_segmenter(config, path, "cpu").predict(white, 60, 9).shape == (9, 60)
    with pytest.raises(WeightsError, match="of its keys"):
        load_segmenter(config.model_copy(update={"architecture": "unet"}), path, "cpu")


def test_deeplabv3_of_an_older_smp_loads(tmp_path):
    import segmentation_models_pytorch as smp

    model = smp.DeepLabV3("resnet18", encoder_weights=None, classes=2)
    old = {
        "decoder.aspp.": "decoder.0.",
        "decoder.conv.": "decoder.1.",
        "decoder.bn.": "decoder.2.",
    }
    state = {}
    for key, value in model.state_dict().items():
        new = next((n for n in old if key.startswith(n)), "")
        state[old.get(new, "") + key.removeprefix(new)] = value
    assert "decoder.1.weight" in state
    path = tmp_path / "old.pth"
    torch.save(state, path)
    config = UnetConfig(architecture="deeplabv3", backbone="resnet18", tile_px=64)
    load_segmenter(config, path, "cpu")
    torch.save(state | {"decoder.3.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"of its keys, 1 unexpected \(decoder\.3\.weight\)"):
        load_segmenter(config, path, "cpu")


def test_keys_that_do_not_fit_are_named(tmp_path, tiny_state):
    state = dict(tiny_state)
    del state["encoder.model.bn1.weight"]
    state["stranger"] = torch.zeros(1)
    state["segmentation_head.0.weight"] = torch.zeros(2, 5, 3, 3)
    path = tmp_path / "wrong.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError) as caught:
        load_segmenter(TINY, path, "cpu")
    text = str(caught.value)
    assert "1 missing (encoder.model.bn1.weight); 1 unexpected (stranger); 1 of another" in text
    assert "segmentation_head.0.weight is (2, 5, 3, 3) for (2, 16, 3, 3)" in text
    assert "Fix tissue.unet.architecture" in text


def test_keys_with_only_some_prefixed_are_not_unwrapped(tmp_path, tiny_state):
    state = {f"model.{key}": value for key, value in tiny_state.items()}
    state["criterion.weight"] = torch.zeros(2)
    path = tmp_path / "mixed.safetensors"
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"unexpected \(criterion\.weight, model\.decoder"):
        load_segmenter(TINY, path, "cpu")


def test_one_output_per_class(tmp_path, tiny_state):
    path = tmp_path / "sigmoid.safetensors"
    save_file(tiny_state | {"segmentation_head.0.weight": torch.zeros(1, 16, 3, 3)}, path)
    with pytest.raises(WeightsError, match=r"has 1 output, .* single \(sigmoid\) output"):
        load_segmenter(TINY, path, "cpu")


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("this code ran",))


def test_nothing_is_unpickled(tmp_path, tiny_file):
    plain, inside, network = tmp_path / "plain.pth", tmp_path / "in.pth", tmp_path / "network.pth"
    plain.write_bytes(pickle.dumps(Bomb()))
    torch.save({"state_dict": {"a": Bomb()}}, inside)
    torch.save(nn.Conv2d(3, 2, 1), network)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny_file.read_bytes()[:100_000])
    for path in (plain, inside, network, cut):
        with pytest.raises(WeightsError, match="safe to read") as caught:
            load_segmenter(TINY, path, "cpu")
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_a_wrong_backbone_and_a_missing_library(tmp_path, tiny_file, monkeypatch):
    with pytest.raises(WeightsError, match=r"no such file\. Fix tissue\.unet\.checkpoint"):
        load_segmenter(TINY, tmp_path / "none.pth", "cpu")
    for backbone in ("resnet19", "tu-resnet19"):
        with pytest.raises(ConfigError, match=r"cannot be built with .*resnet19"):
            load_segmenter(TINY.model_copy(update={"backbone": backbone}), tiny_file, "cpu")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'slidemill\[unet\]'"):
        load_segmenter(TINY, tiny_file, "cpu")
