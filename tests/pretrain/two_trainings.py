"""One of two processes that train together; run by `test_two_processes.py`.

Arguments: the folder for results, and this process's rank.
"""

import torch

from pretrain.processes import as_rank
from pretrain.tiny import make_bags, make_tiny
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.train import Means, train

RUNS = {
    "dino": {"method": "dino", "targets": "centring", "regulariser": "none"},
    "dinov2": {"method": "dinov2", "targets": "sinkhorn", "regulariser": "koleo"},
    "both heads": {
        "targets": "centring",
        "regulariser": "kde",
        "ibot": {"separate_head": True, "masked_crops": 0.3},
        "accumulate": 2,
        "epochs": 10,
    },
    "compact": {"method": "dinov2-compact", "attention": "longnet"},
}
NUMBERS = [
    "loss", "dino_loss", "ibot_loss", "regulariser", "teacher_entropy", "kl_to_uniform", "rankme",
    "mean_cosine", "gradient_norm", "slides", "tokens",
]  # fmt: skip


def trainings(ranks: Ranks) -> dict[str, dict[str, torch.Tensor]]:
    """Tables and weights of ten updates each, on seven slides in batches of four and three."""
    bags = make_bags(7)
    found = {}
    for name, changes in RUNS.items():
        run = make_tiny(**({"epochs": 5, "batch_slides": 3} | changes))
        trained = train(bags, run, seed=2, means=Means(ranks=ranks, readers=1))
        table = torch.from_numpy(trained.metrics[NUMBERS].to_numpy(dtype=float))
        found[name] = {"table": table, **trained.encoder.state_dict()}
    return found


if __name__ == "__main__":
    as_rank(trainings)
