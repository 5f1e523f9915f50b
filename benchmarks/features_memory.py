"""Peak memory of a features job, and that it grows neither with tiles nor with slides.

    python benchmarks/features_memory.py --slide big2.tif --slides 1 --slides 8

Runs the real command on a sheet that has the slide so often, with `rgb-mean` and with a ViT-S of
random weights (`--tiles` of each slide at most, by the share of tissue), and watches the
proportional memory (PSS) of the whole process tree.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml
from tiling import memory_mb, tree

from slidemill import jobs
from slidemill.config import load_config
from slidemill.planner import make_plan


def write_config(folder: Path, slide: Path, slides: int, min_tissue: float) -> Path:
    """A configuration with both encoders, and its sheet."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=0)
    save_file(model.state_dict(), folder / "vit.safetensors")
    rows = [f"b{i}\t{slide.resolve()}\tp{i}" for i in range(slides)]
    (folder / "slides.tsv").write_text("\n".join(["slide_id\tpath\tpatient_id", *rows]) + "\n")
    own = {"name": "timm:vit_small_patch16_224", "checkpoint": str(folder / "vit.safetensors")}
    settings = {
        "results": str(folder / "results"),
        "buckets": 1,
        "cohort": {"sheet": str(folder / "slides.tsv")},
        "tiles": {"min_tissue": min_tissue},
        "features": {"encoders": ["rgb-mean", own], "precision": "bf16", "device": "cpu"},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def watch(command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and the peak of its memory, MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peaks = [0.0]

    def sample() -> None:
        while process.poll() is None:
            peaks.append(memory_mb(tree(process.pid)))
            time.sleep(0.1)

    thread = threading.Thread(target=sample)
    thread.start()
    assert process.wait() == 0
    thread.join()
    return time.perf_counter() - started, max(peaks)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--slides", type=int, action="append")
    parser.add_argument("--min-tissue", type=float, default=0.25)
    arguments = parser.parse_args()
    for slides in arguments.slides or [1, 8]:
        with tempfile.TemporaryDirectory() as name:
            config = write_config(Path(name), arguments.slide, slides, arguments.min_tissue)
            plan = make_plan(load_config(config), Path())
            jobs.cohort(plan, plan.buckets, 2)
            jobs.tissue(plan, plan.buckets, 2)
            for stage in plan.tiles.values():
                jobs.tiles(plan, stage, plan.buckets, 2)
            for unit in plan.encoders:
                run = ["features", "--config", str(config), "--run", unit.features.name]
                seconds, peak = watch([str(Path(sys.executable).with_name("slidemill")), *run])
                label = unit.encoder.label
                print(f"{slides} slides, {label}: {peak:,.0f} MB, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
