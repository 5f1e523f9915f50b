"""A step of two processes that have five slides together; run by `test_dinov2.py`.

Arguments: the folder for results, and this process's rank.
"""

from torch import Tensor

from pretrain.methods.cases import SEPARATE, build, grow, load, make_run
from pretrain.processes import as_rank
from slidemill.config.pretrain import IbotConfig
from slidemill.pretrain.distributed import Ranks

RUNS = {
    "dino-koleo": make_run("dino", targets="centring", regulariser="koleo"),
    "dino-sinkhorn": make_run("dino", regulariser="kde"),
    "dinov2": make_run("dinov2"),
    "dinov2-centring": make_run(
        "dinov2", targets="centring", regulariser="kde", ibot=SEPARATE, precision="fp32"
    ),
    "dinov2-compact": make_run("dinov2-compact", ibot=IbotConfig(mask="block", masked_crops=0.1)),
}
"""Of the last, one crop of ten has hidden tiles, so that one process has none."""

Found = dict[str, Tensor | dict[str, Tensor]]


def step(name: str, ranks: Ranks) -> Found:
    """Share, gradients and state of a rank after its step."""
    run = RUNS[name]
    method, batch = build(run, ranks), load(run, rank=ranks.rank, size=ranks.size)
    method.token_budget = 60
    terms, _ = grow(run, batch, method)
    ranks.sum_gradients(method.student)
    method.finish_step(0.9)
    gradients = {n: p.grad for n, p in method.student.named_parameters() if p.grad is not None}
    return {
        "loss": terms.loss.detach(),
        "parts": terms.parts,
        "targets": terms.targets.unflatten(0, (2, -1)),
        "embeddings": terms.embeddings,
        "gradients": gradients,
        "state": method.state_dict(),
    }


def work(ranks: Ranks) -> dict[str, Found]:
    """A step of every run."""
    return {name: step(name, ranks) for name in RUNS}


if __name__ == "__main__":
    as_rank(work)
