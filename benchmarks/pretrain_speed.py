"""How fast a slide encoder is pretrained, data loading included, and what memory it takes.

Times whole updates of the training's own parts (`StepLoader`, a method, AdamW, clipping, the moving
average, the monitors) on features that are read from files of the features stage's format. Three
arms, interleaved in rounds: `packed`, as configured; `equal`, packed too, with centring and without
a regulariser; and `one`, the same slides, crops, masks and losses as `equal`, one slide a pass with
gradients accumulated over the update, as in training with a batch of one. `equal` and `one` give
the same loss (the difference is printed), so that their ratio is that of packing alone. Every arm
reads ahead by the same threads.

The share of the peak counts the blocks' products of matrices only, by 24 D^2 + 4 keys D a token
and block, three times for the student and once for the teacher: not the embedding of features, the
heads, nor what is computed a second time. Files that were just written are in the page cache.

    python benchmarks/pretrain_speed.py --device cuda --precision bf16 --token-budget 131072
    python benchmarks/pretrain_speed.py --size 2x64 --tiles 60 150 --shares --attention exact
    python benchmarks/pretrain_speed.py --size 6x384 --memory 45000
"""

import argparse
import json
import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils import clip_grad_norm_

from slidemill.artifacts.formats import FEATURES
from slidemill.artifacts.hdf5 import write_hdf5
from slidemill.artifacts.provenance import Stamp
from slidemill.config import CropsConfig, HeadConfig, PretrainRun
from slidemill.features.store import FeatureStore
from slidemill.pretrain.bags import feature_moments, grid_positions
from slidemill.pretrain.distributed import Ranks
from slidemill.pretrain.embedding import embed_slide
from slidemill.pretrain.encoder import wants_bf16
from slidemill.pretrain.loader import StepBatch, StepLoader
from slidemill.pretrain.longnet import RATIOS, SEGMENTS
from slidemill.pretrain.methods import Method, Terms, make_method
from slidemill.pretrain.monitors import entropy, kl_to_uniform, mean_pairwise_cosine, rankme
from slidemill.pretrain.prefetch import ahead, each
from slidemill.pretrain.train import initial_encoder

ARMS = ("packed", "equal", "one")
SEED = 0
PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}
"""TFLOP/s of dense products in bfloat16 by the makers' data sheets; the first name that fits."""


def write_slides(folder: Path, counts: list[int], dim: int) -> pd.DataFrame:
    """Features of slides, squares of tiles or nearly so; the manifest's rows."""
    rng = np.random.default_rng(SEED)
    block = rng.standard_normal((max(counts), dim), dtype=np.float32).astype(np.float16)
    facts = {
        "encoder": "synthetic", "weights_sha256": "", "mpp": 0.5, "tile_px": 256, "mpp_x": 0.25,
        "mpp_y": 0.25, "step_x": 512.0, "step_y": 512.0, "tiles_left_out": 0, "output": "cls",
        "precision": "fp16",
    }  # fmt: skip
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, count in enumerate(counts):
        side = math.ceil(math.sqrt(count))
        places = np.arange(count, dtype=np.int64)
        grid = np.stack([places % side, places // side], axis=1) * 512
        path = folder / "slides" / f"S{i:05d}.h5"
        stamp = Stamp(digest="0" * 64, item_digest=f"{i:064d}", slide_id=path.stem)
        features = np.roll(block[:count], int(rng.integers(dim)), axis=1)
        write_hdf5(path, {"features": features, "coords": grid}, FEATURES, stamp, facts)
        row = {"slide_id": path.stem, "status": "ok", "item_digest": f"{i:064d}"}
        rows.append({**row, "path": f"slides/{path.name}"})
    return pd.DataFrame(rows)


def tile_counts(args: argparse.Namespace, slides: int) -> list[int]:
    """Tiles of every slide: a full square, or drawn between two numbers."""
    if len(args.tiles) == 1:
        return [math.ceil(math.sqrt(args.tiles[0])) ** 2] * slides
    low, high = args.tiles
    drawn = np.random.default_rng(SEED).integers(low, high, size=slides, endpoint=True)
    return [int(n) for n in drawn]


def make_crops(args: argparse.Namespace, tiles: int) -> CropsConfig:
    """Crops of the stated numbers of tokens on a square of tiles, or the default shares."""
    if args.shares:
        return CropsConfig(local_crops=args.locals)
    side = math.ceil(math.sqrt(tiles))
    # For memory, a large crop is all of the slide, made smaller to the tiles that it may have.
    wide = 1.0 if args.memory else min(math.ceil(math.sqrt(args.global_tokens)) / side, 1.0)
    narrow = min(round(math.sqrt(args.local_tokens)) / side, 1.0)
    return CropsConfig(
        global_size=(wide, wide), local_crops=args.locals, local_size=(narrow, narrow)
    )


def make_run(
    args: argparse.Namespace, attention: str, arm: str, batch_slides: int, max_tiles: int
) -> PretrainRun:
    """The run of an arm."""
    alike = {} if arm == "packed" else {"targets": "centring", "regulariser": "none"}
    values = {
        "method": args.method,
        "attention": attention,
        "size": args.size,
        "heads": args.heads or "auto",
        "crops": make_crops(args, args.memory or args.tiles[0]),
        "max_tiles": max_tiles,
        "epochs": 10_000,
        "batch_slides": batch_slides,
        "head": HeadConfig(
            prototypes=args.prototypes, hidden=args.hidden, bottleneck=args.bottleneck
        ),
        "precision": args.precision,
        **alike,
    }
    return PretrainRun.model_validate(values)


class Trainer:
    """Updates of one arm on batches that are read ahead.

    Args:
        store: The slides.
        run: Hyper-parameters.
        args: What the command line says of device and memory.
        single: Whether slides go through the encoders one at a time.
    """

    def __init__(
        self, store: FeatureStore, run: PretrainRun, args: argparse.Namespace, *, single: bool
    ) -> None:
        self.run, self.device, self.readers, self.step = run, args.device, args.readers, 0
        # Rank b of as many ranks as slides has the step's slide b, with the same draws.
        count = run.batch_slides if single else 1
        self.loaders = [
            StepLoader(store, run, SEED, rank=b, size=count, device=args.device)
            for b in range(count)
        ]
        encoder = initial_encoder(run, store.dim, SEED)
        encoder.set_moments(*feature_moments(store, 64, np.random.default_rng(SEED)))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)
            self.method: Method = make_method(run, encoder, Ranks()).to(args.device)
        self.method.token_budget = args.token_budget
        for network in (self.method.student, self.method.teacher):
            network.encoder.checkpointing = args.checkpointing
            if args.compile:
                for block in network.encoder.blocks():
                    block.compile(dynamic=True)
        parameters = self.method.student.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def batches(self) -> Iterator[list[StepBatch]]:
        """What updates need, from the next one on, read ahead."""

        def load(step: int, pool: Executor) -> list[StepBatch]:
            if len(self.loaders) == 1:
                return [self.loaders[0].load(step, pool)]
            return each(pool, lambda loader: loader.load(step), self.loaders)

        return ahead(load, range(self.step, self.loaders[0].steps), self.readers)

    def update(self, parts: list[StepBatch]) -> tuple[float, list[int], list[int]]:
        """One update; the loss, and tokens of every crop of student and teacher."""
        method, run = self.method, self.run
        self.optimizer.zero_grad(set_to_none=True)
        found: list[Terms] = []
        student, teacher = list[int](), list[int]()
        for part in parts:
            teacher += part.globals.sequences.lengths
            student += part.globals.sequences.lengths
            student += () if part.locals is None else part.locals.sequences.lengths
            batch = part.to(self.device)
            terms = method(batch, run.teacher_temperature[1], run.batch_slides)
            terms.loss.backward()
            found.append(terms._replace(loss=terms.loss.detach()))
        norm = clip_grad_norm_(method.student.parameters(), run.max_gradient)
        targets = torch.cat([terms.targets for terms in found])
        embeddings = torch.cat([terms.embeddings for terms in found])
        signs = (entropy(targets), kl_to_uniform(targets), rankme(embeddings))
        loss = torch.stack([terms.loss for terms in found]).sum()
        shown = torch.stack([loss, norm, *signs, mean_pairwise_cosine(embeddings)])
        # As in training: the numbers of an update are read, for which the host waits.
        numbers = shown.tolist()
        self.optimizer.step()
        method.finish_step(run.teacher_momentum)
        self.step += 1
        return numbers[0], student, teacher


@dataclass
class Course:
    """What the rounds of an arm took.

    Attributes:
        seconds: Of an update, one value a round.
        waited: Of these, for which the next batch was not there.
        cpu: Of an update, of all threads of the process, reading included.
        slides: Slides of an update.
        tokens: Tokens of the student of an update, one value a round.
        flops: Of an update, one value a round.
        loss: Of the first update.
    """

    slides: int
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    loss: float = math.nan

    def numbers(self, peak: float) -> dict[str, float]:
        """Medians over the rounds."""
        pairs = list(zip(self.seconds, self.tokens, self.flops, strict=True))
        return {
            "step_s": median(self.seconds),
            "slides_per_s": median(self.slides / s for s in self.seconds),
            "tokens_per_s": median(tokens / s for s, tokens, _ in pairs),
            "waited_s": median(self.waited),
            "cpu_s": median(self.cpu),
            "tflops": median(flops / s / 1e12 for s, _, flops in pairs),
            "share_of_peak": median(flops / s / 1e12 / peak for s, _, flops in pairs),
            "tokens": median(self.tokens),
            "first_loss": self.loss,
        }


def time_round(trainer: Trainer, course: Course, warm: int, steps: int) -> None:
    """Some updates, after some that are not timed."""
    wait, student, teacher = 0.0, list[int](), list[int]()
    batches = trainer.batches()
    start, used = time.perf_counter(), time.process_time()
    for number in range(-warm, steps):
        if number == 0:
            synchronise(trainer.device)
            wait, start, used = 0.0, time.perf_counter(), time.process_time()
        asked = time.perf_counter()
        parts = next(batches)
        wait += time.perf_counter() - asked
        loss, of_student, of_teacher = trainer.update(parts)
        if trainer.step == 1:
            course.loss = loss
        if number >= 0:
            student += of_student
            teacher += of_teacher
    synchronise(trainer.device)
    course.seconds.append((time.perf_counter() - start) / steps)
    course.cpu.append((time.process_time() - used) / steps)
    batches.close()  # type: ignore[attr-defined]
    course.waited.append(wait / steps)
    course.tokens.append(sum(student) / steps)
    of = (trainer.run.depth, trainer.run.width, trainer.run.attention)
    flops = 3 * sum(forward_flops(n + 1, *of) for n in student)
    course.flops.append((flops + sum(forward_flops(n + 1, *of) for n in teacher)) / steps)


def forward_flops(tokens: int, depth: int, width: int, attention: str) -> float:
    """Of the blocks on one sequence: 24 D^2 a token, and 4 D a pair of a query and a key."""
    if attention == "exact":
        pairs = float(tokens**2)
    else:
        # A branch keeps one of r positions of a segment for each head.
        pairs = 0.0
        for segment, ratio in zip(SEGMENTS, RATIOS, strict=True):
            whole, rest = divmod(tokens, min(segment, tokens))
            pairs += (whole * min(segment, tokens) ** 2 + rest**2) / ratio**2
    return depth * (24.0 * width**2 * tokens + 4.0 * width * pairs)


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def peak_tflops(args: argparse.Namespace) -> float:
    """Of the device: as told, by its name, or that of a large product of matrices."""
    if args.peak_tflops is not None:
        return float(args.peak_tflops)
    bf16 = wants_bf16(args.precision, args.device)
    if torch.device(args.device).type == "cuda" and bf16:
        name = torch.cuda.get_device_name(args.device)
        for known, peak in PEAKS.items():
            if known in name:
                return peak
    edge = 8192 if torch.device(args.device).type == "cuda" else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(edge, edge, device=args.device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(20):
        synchronise(args.device)
        start = time.perf_counter()
        a @ b
        synchronise(args.device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * edge**3 / best / 1e12


def time_arms(
    args: argparse.Namespace, store: FeatureStore, told: Callable[[str], None]
) -> dict[str, Any]:
    """All arms in rounds; numbers by attention and arm, and ratios of the same round."""
    peak = peak_tflops(args)
    most = 8192 if args.shares else args.global_tokens
    trainers: dict[tuple[str, str], Trainer] = {}
    for attention in args.attention:
        for arm in args.arms:
            run = make_run(args, attention, arm, args.batch_slides, most)
            trainers[attention, arm] = Trainer(store, run, args, single=arm == "one")
    courses = {key: Course(args.batch_slides) for key in trainers}
    for number in range(args.rounds):
        for key, trainer in trainers.items():
            time_round(trainer, courses[key], args.warm, args.steps)
            told(f"round {number}, {' '.join(key)}: {courses[key].seconds[-1]:.3f} s an update")
    found: dict[str, Any] = {"peak_tflops": peak, "arms": {}, "ratios": {}}
    for (attention, arm), course in courses.items():
        found["arms"][f"{attention} {arm}"] = course.numbers(peak)
    pairs = {f"{a} one/equal": ((a, "one"), (a, "equal")) for a in args.attention}
    if len(args.attention) == 2:
        pairs |= {f"exact/longnet {arm}": (("exact", arm), ("longnet", arm)) for arm in args.arms}
    for name, (slow, fast) in pairs.items():
        if slow in courses and fast in courses:
            seconds = zip(courses[slow].seconds, courses[fast].seconds, strict=True)
            ratios = [a / b for a, b in seconds]
            cpu = median(courses[slow].cpu) / median(courses[fast].cpu)
            found["ratios"][name] = {"median": median(ratios), "all": ratios, "cpu": cpu}
            if (slow[1], fast[1]) == ("one", "equal"):
                apart = abs(courses[slow].loss - courses[fast].loss)
                found["ratios"][name]["loss_difference"] = apart
    return found


def measure_memory(
    args: argparse.Namespace, folder: Path, manifest: pd.DataFrame, attention: str, what: str
) -> dict[str, Any]:
    """Peak memory of one training step, or one embedding, in a process of its own."""
    torch.set_num_threads(args.threads)
    args.checkpointing = what == "step, checkpointing"
    store = FeatureStore(folder, manifest)
    run = make_run(args, attention, "packed", len(store), args.max_tiles)
    cuda = torch.device(args.device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(args.device)
    before, start = resident_mb(), time.perf_counter()
    if what == "embedding":
        encoder = initial_encoder(run, store.dim, SEED)
        positions = grid_positions(store.coords(0), store.step(0))
        embed_slide(encoder, store.stored(0), positions, args.device, args.precision)
        longest = args.memory
    else:
        trainer = Trainer(store, run, args, single=False)
        _, student, _ = trainer.update([trainer.loaders[0].load(0)])
        longest = max(student)
    found = {"peak_mb": resident_mb(), "before_mb": before, "longest": longest}
    if cuda:
        found["peak_cuda_mb"] = torch.cuda.max_memory_allocated(args.device) / 2**20
    return found | {"seconds": time.perf_counter() - start}


def resident_mb() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux's getrusage begins with the peak of the process that started this one.
        peak = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(peak.split()[1]) / 1024
    # What is left is macOS, which counts bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory_table(
    args: argparse.Namespace, folder: Path, told: Callable[[str], None]
) -> dict[str, Any]:
    """Peak memory by attention and work, each in a fresh process."""
    found: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    manifest = write_slides(folder, [args.memory] * args.batch_slides, args.dim)
    for attention in args.attention:
        for what in args.works:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                one = pool.submit(measure_memory, args, folder, manifest, attention, what).result()
            found[f"{attention} {what}"] = one
            told(f"{attention} {what}: {one['peak_mb']:.0f} MB, {one['seconds']:.0f} s")
    return {"memory": found}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", default="12x768", help="Blocks x width.")
    add("--heads", type=int, help="Attention heads; one for every 64 of the width unless given.")
    add("--dim", type=int, default=1536, help="Width of the tile features.")
    add("--method", default="dinov2", choices=["dino", "dinov2", "dinov2-compact"])
    add("--prototypes", type=int, default=4096)
    add("--hidden", type=int, default=2048, help="Width of the heads' hidden layers.")
    add("--bottleneck", type=int, default=256, help="Width that meets the prototypes.")
    add("--tiles", type=int, nargs="+", default=[8192], help="Tiles a slide, or least and most.")
    add("--slides", type=int, help="Slides on disk; twice those of an update unless given.")
    add("--global-tokens", type=int, default=6000, help="Tokens of each of two large crops.")
    add("--local-tokens", type=int, default=144, help="Tokens of a small crop, about.")
    add("--locals", type=int, default=8, help="Small crops.")
    add("--shares", action="store_true", help="Crops of the default shares instead, ragged.")
    add("--batch-slides", type=int, help="Slides an update: 32, or 2 for --memory.")
    add("--steps", type=int, default=5, help="Timed updates a round.")
    add("--warm", type=int, default=1, help="Updates before them in every round.")
    add("--rounds", type=int, default=3)
    add("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    add("--attention", nargs="+", default=["exact", "longnet"], choices=["exact", "longnet"])
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    add("--compile", action="store_true")
    add("--checkpointing", action="store_true")
    add("--token-budget", type=int, default=262_144)
    add("--readers", type=int, default=4)
    add("--threads", type=int, default=1, help="Threads of torch on a CPU.")
    add("--peak-tflops", type=float, help="Of the device; else by its name, or measured.")
    add("--memory", type=int, help="Measure memory instead, on slides of so many tiles.")
    add("--max-tiles", type=int, default=8192, help="Tiles of a crop at most, for --memory.")
    works = ["embedding", "step", "step, checkpointing"]
    add("--works", nargs="+", default=works, choices=works, help="What --memory measures.")
    add("--folder", type=Path, help="Where features are written; a temporary folder unless given.")
    add("--quick", action="store_true", help="A tiny network on tiny slides: does it run?")
    add("--json", action="store_true", help="End with a line of JSON.")
    args = parser.parse_args()
    if args.quick:
        args.size, args.heads, args.dim = "1x32", 2, 16
        args.prototypes, args.hidden, args.bottleneck = 16, 32, 16
        args.tiles, args.global_tokens, args.local_tokens, args.locals = [60], 36, 9, 2
        args.batch_slides, args.steps, args.rounds = 4, 1, 1
    if args.memory:
        args.global_tokens = min(args.max_tiles, args.memory)
    args.batch_slides = args.batch_slides or (2 if args.memory else 32)
    return args


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print tables."""
    for name, one in found.get("memory", {}).items():
        cuda = f", CUDA {one['peak_cuda_mb']:.0f} MB" if "peak_cuda_mb" in one else ""
        print(
            f"| {name} | longest {one['longest']} | {one['peak_mb']:.0f} MB{cuda} "
            f"({one['before_mb']:.0f} before) | {one['seconds']:.0f} s |"
        )
    if "arms" not in found:
        return
    print(f"{args.size}, {args.batch_slides} slides an update, peak {found['peak_tflops']:.3g} TF")
    print("| arm | update, s | CPU, s | slides/s | tokens/s | waited, s | TFLOP/s | of peak |")
    for name, one in found["arms"].items():
        print(
            f"| {name} | {one['step_s']:.3f} | {one['cpu_s']:.3f} | {one['slides_per_s']:.2f} | "
            f"{one['tokens_per_s']:,.0f} | {one['waited_s']:.3f} | {one['tflops']:.3g} | "
            f"{one['share_of_peak']:.2f} |"
        )
    for name, ratio in found["ratios"].items():
        rounds = ", ".join(f"{value:.2f}" for value in ratio["all"])
        apart = ratio.get("loss_difference")
        beside = "" if apart is None else f"; losses differ by {apart:.1e}"
        print(f"{name}: {ratio['median']:.2f} (rounds {rounds}; CPU {ratio['cpu']:.2f}){beside}")


def main() -> None:
    """Write slides, measure, print."""
    args = parse()
    torch.set_num_threads(args.threads)

    def told(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.memory:
            found = memory_table(args, folder, told)
        else:
            slides = args.slides or 2 * args.batch_slides
            if slides % args.batch_slides:
                raise SystemExit("--slides has to be a multiple of --batch-slides")
            manifest = write_slides(folder, tile_counts(args, slides), args.dim)
            found = time_arms(args, FeatureStore(folder, manifest), told)
    show(args, found)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
