"""How well every method finds tissue under every condition: a table of intersection over union."""

import argparse

import numpy as np

from slidemill.slides.conditions import CONDITIONS, paint_condition
from slidemill.tissue.find import Method, find_tissue

METHODS: tuple[Method, ...] = ("otsu", "hsv", "entropy")


def main() -> None:
    """Print the table: mean and least of the seeds; for glass, square mm of false tissue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="slides per condition")
    parser.add_argument("--first-seed", type=int, default=100, help="thresholds were tuned below")
    arguments = parser.parse_args()
    first, seeds = arguments.first_seed, arguments.seeds
    print(f"{'condition':<16}" + "".join(f"{method:>20}" for method in METHODS))
    for name in CONDITIONS:
        painted = [paint_condition(name, seed) for seed in range(first, first + seeds)]
        cells = []
        for method in METHODS:
            scores = []
            for pixels, truth, mpp in painted:
                found = find_tissue(
                    pixels, mpp, method=method, min_area_mm2=0.02, min_hole_mm2=0.005
                ).mask
                if truth.any():
                    scores.append((found & truth).sum() / (found | truth).sum())
                else:
                    scores.append(found.sum() * (mpp / 1000) ** 2)
            worst = max(scores) if name == "glass" else min(scores)
            unit = " mm2" if name == "glass" else ""
            cells.append(f"{np.mean(scores):.3f} ({worst:.3f}){unit}".rjust(20))
        print(f"{name:<16}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
