from collections.abc import Callable

import pytest

from interop.runs import Given, Run
from slidemill.config import parse_config
from slidemill.planner import make_plan


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Run]:
    def make(*slides: Given, encoders=("rgb-mean",), folder="run", **tiles: object) -> Run:
        root = tmp_path / folder
        root.mkdir()
        lines = [f"{slide.slide_id}\t{slide.slide_id}.svs\tp" for slide in slides]
        (root / "slides.tsv").write_text("\n".join(["slide_id\tpath\tpatient_id", *lines]) + "\n")
        config = {
            "cohort": {"sheet": "slides.tsv"},
            "tiles": tiles,
            "features": {"encoders": list(encoders)},
        }
        return Run(root, make_plan(parse_config(config, "test"), root), slides)

    return make
