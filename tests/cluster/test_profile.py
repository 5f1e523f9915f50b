"""`snakemake --profile slurm`, as a user types it, on a real Slurm."""

import shutil
import subprocess
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from cluster.scenario import ROOT, Scenario
from slidemill.demo import write_demo

ON_GPU = {"features_bucket", "pretrain_run"}
CONFIG = {
    "buckets": 2,
    "cohort": {"sheet": "demo/slides.tsv", "max_failed": 0.3},
    "tissue": {"min_area_mm2": 0.005},
    "features": {
        "encoders": ["rgb-mean", {"name": "timm:test_vit", "checkpoint": "weights.safetensors"}],
        "device": "cpu",
    },
    "pretrain": {
        "runs": [
            {
                "size": "1x16",
                "heads": 1,
                "head": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
                "epochs": 2,
                "batch_slides": 4,
                "patients": "all",
            }
        ],
        "device": "cpu",
    },
    "evaluate": {
        "tasks": [{"name": "grade", "column": "label"}],
        "models": ["linear-probe"],
        "folds": 2,
        "bootstrap": 100,
        "controls": [],
        "retrieval": False,
        "device": "cpu",
    },
}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The repository as git has it, with a small demo, a network and a GPU stage."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "slidemill"
    for name in listed.stdout.splitlines():
        if name.startswith(("workflow/", "profiles/", "slurm", "Snakefile", "envs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    write_demo(folder / "demo", patients=6, size_px=(1536, 1152), jobs=1)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_vit", pretrained=False)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


def typed(checkout: Path, *arguments: str) -> str:
    """What `snakemake` prints, typed in a checkout's root."""
    done = subprocess.run(
        ["snakemake", *arguments],
        cwd=checkout,
        env=Scenario(checkout).variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_demo_runs_with_gpu_stages_on_the_gpu_partition(slurm, checkout):
    printed = typed(checkout, "--profile", "slurm")
    where: dict[str, set[tuple[str, str]]] = {}
    for job in slurm.jobs("all"):
        rule = next(name for name in RULES if job["comment"].startswith(f"rule_{name}"))
        where.setdefault(rule, set()).add((job["partition"], slurm.gpus(job["id"])))
    assert where == {
        rule: {("gpu", "gres:gpu:1")} if rule in ON_GPU else {("cpu", "")} for rule in RULES
    }
    assert list((checkout / "results").glob("report/*/report.html"))
    assert "2 of 10 slides failed" in printed
    verified = Scenario(checkout).slidemill("verify")
    assert verified.returncode == 0, verified.stdout


RULES = (
    "cohort_bucket", "tissue_bucket", "tiles_bucket", "features_bucket", "handcrafted_bucket",
    "pretrain_run", "evaluate_summary", "evaluate_run", "write_report",
)  # fmt: skip
"""Rules whose jobs go to the cluster; the others are the driver's own."""


@pytest.mark.faults
def test_a_site_profile_changes_what_is_the_sites(slurm, tmp_path, checkout):
    site = tmp_path / "site"
    site.mkdir()
    given = yaml.safe_load((ROOT / "profiles" / "site" / "profile.v9+.yaml").read_text())
    given["set-resources"]["features_bucket"] = {
        "slurm_partition": "gpu",
        "gpu": None,
        "gres": "gpu:1",
        "runtime": 7,
    }
    (site / "profile.v9+.yaml").write_text(yaml.safe_dump(given))
    quick = str(ROOT / "tests" / "cluster" / "quick")
    profiles = ["--profile", "slurm", "--profile", str(site), "--profile", quick]
    typed(checkout, *profiles, "features")
    jobs = slurm.jobs("all")
    jobs = [job for job in jobs if job["comment"].startswith("rule_features_bucket")]
    details = [slurm.command("scontrol", "show", "job", "--oneliner", job["id"]) for job in jobs]
    assert len(details) >= 2
    assert all("TresPerNode=gres:gpu:1" in d and "TimeLimit=00:07:00" in d for d in details)
