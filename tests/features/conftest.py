"""What tests of the engine share: readers, a sink in memory, and slides with known tiles."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from slidemill.features import rgb_mean
from slidemill.features.build import HostEncoder
from slidemill.features.chunks import Source
from slidemill.features.engine import Done, Engine, Work
from slidemill.features.pool import Crew, ReaderPool
from slidemill.features.ring import Ring
from slidemill.features.runners import HostRunner
from slidemill.tiles.grid import exact_grid, tile_geometry

GEOMETRY = tile_geometry(100, 0.5, 0, 0.5, 0.5)
COORDS = exact_grid(GEOMETRY, 1000, 800)


MOST_TILES = 5000


class Kept:
    """A sink that keeps everything; satisfies `engine.Sink`."""

    def __init__(self):
        self.features, self.tokens, self.outcomes, self.batches = {}, {}, {}, []

    def begin(self, slide, tiles, dim):
        self.features[slide] = None

    def write(self, encoded):
        if self.features[encoded.slide] is None:
            shape = (MOST_TILES, encoded.features.shape[1])
            self.features[encoded.slide] = np.full(shape, np.nan, np.float32)
        self.features[encoded.slide][encoded.rows] = encoded.features
        self.batches.append((encoded.slide, len(encoded.rows)))

    def put_aside(self, slide):
        self.features[slide] = None

    def end(self, outcome):
        self.outcomes[outcome.slide] = outcome

    def of(self, slide):
        """Features of the tiles of a slide that were encoded."""
        outcome = self.outcomes[slide]
        assert isinstance(outcome, Done), outcome
        return self.features[slide][outcome.sound]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run side by side: networks that all take every core wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def works(disc_slide):
    """Three slides, which are the same file."""
    source = Source(disc_slide, "auto", GEOMETRY)
    return [Work(number, source, COORDS) for number in range(3)]


@contextmanager
def engine_of(*, runner=None, tile_px=100, crew=None, slots=6, tiles=32, max_unreadable=0.1):
    """An engine, its readers running, and the sink that keeps its features."""
    crew = crew or Crew(processes=1, threads=2, seconds=60)
    ring, sink = Ring(slots, tiles, tile_px), Kept()
    with ReaderPool(ring, crew) as pool:
        chosen = runner or HostRunner(HostEncoder(rgb_mean.encode, 3), "float32")
        yield Engine(ring, pool, chosen, sink, max_unreadable), sink


def run_engine(works, **settings):
    """Encode slides; returns the sink."""
    with engine_of(**settings) as (engine, sink):
        engine.run(works)
    return sink
