"""A real network of timm through the engine: batches, arithmetic, memory that runs out."""

import logging
from functools import partial

import numpy as np
import pytest
import timm
import torch

from features.conftest import COORDS, GEOMETRY, run_engine
from slidemill.errors import SlideCode
from slidemill.features.builders.timm import build
from slidemill.features.chunks import Source
from slidemill.features.device_runner import DeviceRunner
from slidemill.features.encoders import find_spec
from slidemill.features.engine import Work
from slidemill.features.spec import Preprocessing
from slidemill.features.torch_encoder import TorchEncoder

TINY = Preprocessing(160, 160, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(find_spec("timm:test_vit"))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(False)


@pytest.fixture
def make(network):
    def runner(
        *, precision="fp32", dtype="float32", batch_size=16, tokens=False, encoder=None,
        compiled=False,
    ):  # fmt: skip
        chosen = encoder or TorchEncoder(network, TINY, "cls", tokens=tokens)
        return DeviceRunner(
            chosen, device="cpu", precision=precision, dtype=dtype, tile_px=100,
            batch_size=batch_size, compiled=compiled,
        )  # fmt: skip

    return runner


@pytest.fixture
def varied(works, tmp_path):
    """Two slides of noise, so that no two tiles are alike."""
    from slidemill.slides.pyramid import write_pyramid

    rng = np.random.default_rng(1)
    found = []
    for number in range(2):
        path = tmp_path / f"noise-{number}.tif"
        coarse = rng.integers(0, 256, (100, 125, 3), dtype=np.uint8)
        write_pyramid(path, coarse.repeat(8, 0).repeat(8, 1), mpp_x=0.5, mpp_y=0.5)
        found.append(Work(number, Source(path, "auto", GEOMETRY), COORDS))
    return found


def test_a_feature_does_not_depend_on_batch_neighbours_or_bucket(varied, make):
    whole = run_engine(varied, runner=make(batch_size=16))
    assert len({tuple(row) for row in whole.of(0).tolist()}) == len(COORDS)
    for batch_size, tiles in ((1, 32), (7, 5), (64, 32)):
        other = run_engine(varied, runner=make(batch_size=batch_size), tiles=tiles)
        for number in range(2):
            assert np.abs(other.of(number) - whole.of(number)).max() < 1e-5
    alone = run_engine([varied[1]], runner=make())
    assert np.abs(alone.of(1) - whole.of(1)).max() < 1e-5
    few = Work(5, varied[0].source, COORDS[[40, 3, 77]])
    assert np.abs(run_engine([few], runner=make()).of(5) - whole.of(0)[[40, 3, 77]]).max() < 1e-5


def test_batches_go_over_the_ends_of_slides(varied, make, network):
    sizes = []

    class Watched(TorchEncoder):
        def forward(self, tiles):
            sizes.append(len(tiles))
            return super().forward(tiles)

    encoder = Watched(network, TINY, "cls", tokens=False)
    sink = run_engine(varied, runner=make(batch_size=48, encoder=encoder), tiles=32)
    assert sizes == [48, 48, 48, 16]
    assert len(sink.of(0)) == len(sink.of(1)) == 80


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_close_to_full(varied, make, precision):
    full = run_engine(varied[:1], runner=make()).of(0)
    reduced = run_engine(varied[:1], runner=make(precision=precision)).of(0)
    again = run_engine(varied[:1], runner=make(precision=precision, batch_size=5)).of(0)
    assert (full != reduced).any()
    for other in (full, again):
        lengths = np.linalg.norm(other, axis=1) * np.linalg.norm(reduced, axis=1)
        assert ((other * reduced).sum(axis=1) / lengths).min() > 0.9999


def test_features_are_those_of_timm(varied, make, network):
    from slidemill.slides.reader import Slide
    from slidemill.slides.regions import Region, read_region

    found = run_engine(varied[:1], runner=make()).of(0)
    with Slide(varied[0].source.path) as slide:
        x, y = COORDS[13].tolist()
        tile = read_region(slide, Region(x, y, 100.0, 100.0), 100, 100)
    image = torch.from_numpy(tile).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(image, (160, 160), mode="bicubic", antialias=True)
    with torch.inference_mode():
        tokens = network.body.forward_features((resized.float() / 255 - 0.5) / 0.5)
    assert isinstance(network.body, timm.models.VisionTransformer)
    assert np.abs(found[13] - tokens[0, 0].numpy()).max() < 1e-4


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(varied, make, network, caplog):
    whole = run_engine(varied, runner=make()).of(1)

    class Large(TorchEncoder):
        def forward(self, tiles):
            if len(tiles) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return super().forward(tiles)

    runner = make(encoder=Large(network, TINY, "cls", tokens=False))
    with caplog.at_level(logging.WARNING):
        found = run_engine(varied, runner=runner).of(1)
    assert runner.batch_size == 4
    assert "batches of 8 tiles" in caplog.text
    assert "batches of 4 tiles" in caplog.text
    assert np.abs(found - whole).max() < 1e-5


def test_compiled_networks_get_whole_batches_and_give_the_same(varied, make, network, monkeypatch):
    sizes = []

    class Watched(TorchEncoder):
        def forward(self, tiles):
            sizes.append(len(tiles))
            return super().forward(tiles)

    whole = run_engine(varied, runner=make()).of(1)
    # The same tracing without the compiler behind it, which takes minutes on a CPU.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    encoder = Watched(network, TINY, "cls", tokens=False)
    found = run_engine(varied, runner=make(batch_size=48, encoder=encoder, compiled=True)).of(1)
    assert set(sizes) == {48}
    assert np.abs(found - whole).max() < 1e-5


def test_a_tile_that_is_too_much_ends_the_job(works, make, network):
    class Huge(TorchEncoder):
        def forward(self, tiles):
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run_engine(works, runner=make(encoder=Huge(network, TINY, "cls", tokens=False)))


def test_tokens_come_in_their_grid(varied, make, network):
    sink = run_engine(varied[:1], runner=make(tokens=True, dtype="float16"))
    assert sink.of(0).dtype == np.float32  # as the sink keeps them
    kept = []

    def write(encoded):
        kept.append((encoded.rows, encoded.features, encoded.tokens))

    from features.conftest import engine_of

    with engine_of(runner=make(tokens=True, dtype="float16")) as (engine, sink):
        sink.write = write
        engine.run(varied[:1])
    rows, features, tokens = kept[0]
    assert tokens.shape == (len(rows), 10, 10, 64)
    assert tokens.dtype == features.dtype == np.float16
    assert sum(len(part[0]) for part in kept) == 80


def test_a_network_that_overflows_fails_the_slide(varied, make, network):
    class Odd(TorchEncoder):
        def forward(self, tiles):
            found = super().forward(tiles)
            found.features[:, 0] = 1e6
            return found

    encoder = Odd(network, TINY, "cls", tokens=False)
    sink = run_engine(varied, runner=make(encoder=encoder, dtype="float16"))
    assert sink.outcomes[0].error.code == SlideCode.NOT_FINITE
    assert sink.outcomes[1].error.code == SlideCode.NOT_FINITE
