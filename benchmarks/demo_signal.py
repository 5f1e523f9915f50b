"""Does the demo's evaluation find the signal that was planted, and nothing where there is none?

Run after `make demo`, from the repository's root: `python benchmarks/demo_signal.py`. Three checks,
each of which ends the program with 1 if it fails:

1. ABMIL on hed-texture has an AUROC of at least 0.9.
2. Its attention finds the tiles that carry the signal: within every positive slide that was
   predicted out of fold, the AUROC of attention for tiles of which at least half lies in a focus
   against tiles that touch none; the mean over slides has to be at least 0.8, and such a tile has
   to get more attention than another on average.
3. With labels shuffled among patients, the interval of the same ABMIL covers 0.5. One shuffle of 32
   labels is a draw of its own, so four more are made, for the linear probe too: a leak would lift
   AUROCs of shuffled labels, so no model's mean may exceed 0.5 by more than three standard errors.
   (It may well be below: pooled predictions of stratified folds are biased downwards where there is
   no signal; Parker, Guenter and Bedo, 2007, Stratification bias in low signal microarray studies.)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import yaml
from sklearn.metrics import roc_auc_score

from slidemill.config import load_config
from slidemill.plan import CellPlan, Plan
from slidemill.planner import make_plan

CONFIG = Path("config.yaml")
SHUFFLES = 5


def main() -> None:
    """Run the checks and print what was found."""
    plan = make_plan(load_config(CONFIG), Path())
    cell = next(c for c in plan.cells if c.model == "abmil" and c.source == "hed-texture")
    checks = [check_auroc(plan, cell), check_attention(plan, cell), check_shuffled()]
    raise SystemExit(0 if all(checks) else 1)


def check_auroc(plan: Plan, cell: CellPlan) -> bool:
    """AUROC of ABMIL with its interval."""
    row = overall(plan.metrics_path(cell.stage)).loc["auroc"]
    print(
        f"ABMIL on hed-texture: AUROC {row['estimate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    )
    return bool(row["estimate"] >= 0.9)


def check_attention(plan: Plan, cell: CellPlan) -> bool:
    """Whether attention ranks the tiles of foci above the others, slide by slide."""
    sheet = Path(plan.config.cohort.sheet)
    truth = pd.read_parquet(sheet.parent / "truth" / "tiles.parquet")
    aurocs, ratios = [], []
    for path in sorted((cell.stage.folder(plan.results) / "slides").glob("*.h5")):
        mine = truth[truth["slide_id"] == path.stem]
        if mine.empty:
            continue
        with h5py.File(path) as file:
            tiles = pd.DataFrame(file["coords"][:], columns=["x", "y"])
            tiles["attention"] = file["attention"][:]
        tiles = tiles.merge(mine, how="left", on=["x", "y"]).fillna({"signal_fraction": 0.0})
        signal, other = tiles["signal_fraction"] >= 0.5, tiles["signal_fraction"] == 0
        if not signal.any() or not other.any():
            continue
        chosen = tiles[signal | other]
        aurocs.append(roc_auc_score(signal[signal | other], chosen["attention"]))
        ratios.append(tiles["attention"][signal].mean() / tiles["attention"][other].mean())
    print(
        f"attention of signal tiles against others in {len(aurocs)} positive slides: "
        f"AUROC mean {np.mean(aurocs):.3f}, least {np.min(aurocs):.3f}; "
        f"a signal tile gets {np.median(ratios):.1f} times the attention of another (median)"
    )
    return bool(np.mean(aurocs) >= 0.8 and np.median(ratios) > 1)


def check_shuffled() -> bool:
    """Whether nothing is found where labels are shuffled."""
    found: dict[str, list[pd.Series]] = {}
    for seed in range(SHUFFLES):
        for model, row in shuffled(seed).items():
            print(
                f"{model}, labels shuffled by seed {seed}: AUROC {row['estimate']:.3f} "
                f"[{row['low']:.3f}, {row['high']:.3f}]"
            )
            found.setdefault(model, []).append(row)
    first = found["abmil on hed-texture"][0]
    good = bool(first["low"] <= 0.5 <= first["high"])
    for model, rows in found.items():
        positive, total = int(rows[0]["n_positive"]), int(rows[0]["n_patients"])
        # Variance of the AUROC of a random ranking (Mann and Whitney, 1947).
        variance = (total + 1) / (12 * positive * (total - positive))
        error = (variance / len(rows)) ** 0.5
        mean = float(np.mean([row["estimate"] for row in rows]))
        print(f"{model}: mean of {len(rows)} shuffles {mean:.3f}, standard error {error:.3f}")
        good &= mean <= 0.5 + 3 * error
    return good


def shuffled(seed: int) -> dict[str, pd.Series]:
    """AUROC of every model where labels are shuffled by a seed."""
    values = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    values["features"]["encoders"] = ["hed-texture"]
    values["pretrain"]["runs"] = []
    values["evaluate"]["tasks"] = [{"name": "shuffled", "column": "label", "shuffle_labels": True}]
    values["evaluate"] |= {
        "seed": seed, "models": ["abmil", "linear-probe"], "controls": [], "retrieval": False
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shuffled.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        command = ["snakemake", "evaluate", "--cores", "2", "--quiet", "all"]
        subprocess.run([*command, "--configfile", str(path)], check=True, stdout=sys.stderr)
        plan = make_plan(load_config(path), Path())
    return {
        f"{cell.model} on {cell.source}": overall(plan.metrics_path(cell.stage)).loc["auroc"]
        for cell in plan.cells
    }


def overall(path: Path) -> pd.DataFrame:
    """Metrics over all folds, by name."""
    metrics = pd.read_parquet(path)
    return metrics[metrics["fold"] < 0].set_index("metric")


if __name__ == "__main__":
    main()
