"""BYOL fed by our data path, beside the same network fed by lightly's transforms.

    python -m benchmarks.pretrain [--json] [--quick] [--width 16] [--stem half] [--batch 128]
                                  [--images 50000]

Images a second of BYOL with ResNet-18 on random images of 32 pixels, in float32 and in the
precision that `train.precision: auto` chooses:

- ours: `fit`, as `rapipe pretrain` calls it: Lightning, views on whole batches, optimiser,
  momentum encoder;
- ours, deterministic: the same with `train.deterministic`;
- ours without Lightning: the same steps in a loop, for what Lightning costs;
- lightly: the same network, heads, loss and optimiser in a loop, fed by lightly's
  `BYOLTransform` (no blur, no solarisation: as our views) through a DataLoader with a worker
  for each core, once the batches that they had made ahead are used up;
- bare: forward and backward pass on one fixed batch of two views, and nothing else;
- on a CPU also ours on one thread, and both beside one process that keeps a core busy.

All are measured in turns, after a warm-up; starting Lightning and the workers is not counted. The
defaults suit two cores; for one GPU: --width 64 --stem cifar --batch 512.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Result,
    in_turns,
    machine,
    now,
    parse_arguments,
    print_result,
    ratio,
    spread,
    target,
)
from benchmarks.common import precision as auto_precision
from rapipe.cores import cores

SIDE = 32
STEPS = 24
WARM_UP = 3
ROUNDS = 5
QUICK_ROUNDS = 1
PREFETCHED = 2
"""Batches that each worker of a DataLoader makes ahead."""
EPOCHS = 200
AGAINST_LIGHTLY = {"cpu": 2.4, "cuda": 4.0}
OF_BARE = 0.95
BESIDE_ANOTHER = 2.5
"""Times as long, at most, beside a process that keeps a core busy."""
MEAN, STD = (0.5,) * 3, (0.3,) * 3


def main() -> None:
    """Print a table, or JSON."""
    import torch

    from rapipe.device import device

    args = parse_arguments(
        __doc__,
        width=(16, "channels of the first stage"),
        stem=("half", "first convolution"),
        batch=(128, "images a step"),
        images=(50_000, "of an epoch, for the time of one"),
    )
    rng = np.random.default_rng(0)
    count = args.batch * (WARM_UP + STEPS)
    pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    peers = Peers(pixels, args.width, args.stem, args.batch)
    best_precision = auto_precision()
    seconds = {}
    for precision in dict.fromkeys(("fp32", best_precision)):
        with torch.random.fork_rng():
            rounds = QUICK_ROUNDS if args.quick else ROUNDS
            seconds[precision] = in_turns(rounds, peers.all(precision))
    rates = {
        precision: {peer: [args.batch / s for s in times] for peer, times in by_peer.items()}
        for precision, by_peer in seconds.items()
    }
    best = seconds[best_precision]
    against = ratio(best["lightly"], best["ours"])
    busy = []
    if device().type == "cpu":
        slower = ratio(best["ours, one thread, beside"], best["ours"])
        busy = [target("one thread beside another / ours alone", slower, BESIDE_ANOTHER)]
    ours = statistics.median(best["ours"]) / args.batch * args.images
    result: Result = {
        "machine": machine("torch", "lightly", "kornia", "pytorch-lightning"),
        "setting": {"width": args.width, "stem": args.stem, "batch": args.batch},
        "precision chosen": best_precision,
        "images a second": {
            precision: {peer: [round(rate) for rate in values] for peer, values in by_peer.items()}
            for precision, by_peer in rates.items()
        },
        "lightning, share of a step": round(
            1 - ratio(best["ours without Lightning"], best["ours"]), 3
        ),
        "deterministic, slower by": round(ratio(best["ours, deterministic"], best["ours"]) - 1, 3),
        "seconds of an epoch's steps": round(ours, 1),
        f"hours of the steps of {EPOCHS} epochs": round(ours * EPOCHS / 3600, 2),
        "targets": [
            *busy,
            target("ours / lightly", against, AGAINST_LIGHTLY[device().type], at_least=True),
            target("ours / bare", ratio(best["bare"], best["ours"]), OF_BARE, at_least=True),
        ],
    }
    print_result(result, readable(result, rates), args.json)


def readable(result: Result, rates: dict[str, dict[str, list[float]]]) -> list[str]:
    """The figures as text."""
    lines = []
    for precision, by_peer in rates.items():
        lines.append(f"\nimages a second in {precision}")
        lines += [f"{peer:28}{spread(values, digits=0):>28}" for peer, values in by_peer.items()]
    for name in (
        *("precision chosen", "lightning, share of a step", "deterministic, slower by"),
        "seconds of an epoch's steps",
    ):
        lines.append(f"{name}: {result[name]}")
    return lines


def prefetched() -> int:
    """Batches that a DataLoader with a worker for each core has made ahead."""
    return PREFETCHED * cores()


def seconds_a_step(step: Callable[[int], None], warm_up: int) -> float:
    """Seconds of a step."""
    for _ in range(warm_up):
        step(0)
    start = now()
    for number in range(STEPS):
        step(number)
    return (now() - start) / STEPS


def beside_another(run: Callable[[], float]) -> float:
    """What it returns while another process keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            return run()
        finally:
            other.kill()


class Peers:
    """The same network for every way to feed it; each gives the seconds of a step."""

    def __init__(self, pixels: Any, width: int, stem: str, batch: int) -> None:
        self.pixels, self.width, self.stem, self.batch = pixels, width, stem, batch

    def all(self, precision: str) -> dict[str, Callable[[], float]]:
        """By name."""
        import torch

        return {
            "ours": lambda: self.ours(precision),
            "ours, deterministic": lambda: self.ours(precision, exact=True),
            "ours without Lightning": lambda: self.loop(precision, self.our_loss, WARM_UP),
            "lightly": lambda: self.loop(precision, self.lightly_loss, WARM_UP + prefetched()),
            "bare": lambda: self.bare(precision),
            **({} if torch.cuda.is_available() else self.on_a_busy_machine(precision)),
        }

    def on_a_busy_machine(self, precision: str) -> dict[str, Callable[[], float]]:
        """Ours on one thread, and beside a process that keeps a core busy."""
        one_thread = partial(self.ours, precision, threads=1)
        return {
            "ours, one thread": one_thread,
            "ours, beside another": lambda: beside_another(lambda: self.ours(precision)),
            "ours, one thread, beside": lambda: beside_another(one_thread),
        }

    def module(self) -> Any:
        """BYOL as `rapipe pretrain` makes it."""
        import torch

        from rapipe.batches.preprocess import Preprocess
        from rapipe.encoder.backbones import build
        from rapipe.pretraining.module import PretrainingModule
        from rapipe.pretraining.objectives import OBJECTIVES, ObjectiveSpec
        from rapipe.records import Images
        from rapipe.specs import PretrainingRecipe

        torch.manual_seed(0)
        n = len(self.pixels)
        images = Images(
            np.arange(n), self.pixels, np.zeros(n, np.int64), np.array(["x"] * n), ("x",)
        )
        backbone = build("resnet18", self.width, self.stem, SIDE)
        objective = OBJECTIVES["byol"](backbone, ObjectiveSpec(SIDE, 1, (), 0.0))
        recipe = PretrainingRecipe(
            views="crop", epochs=1, batch_size=self.batch, learning_rate=0.06
        )
        return PretrainingModule(
            objective, images, Preprocess(SIDE, MEAN, STD), recipe, seed=0, weights=np.ones(n)
        )

    def ours(self, precision: Any, exact: bool = False, threads: int = 0) -> float:
        """`fit`, between the end of the warm-up and the end of the last step."""
        import torch
        from pytorch_lightning.callbacks import Callback

        from rapipe.device import deterministic
        from rapipe.training.loop import fit

        class StepTimer(Callback):
            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                if trainer.global_step == WARM_UP:
                    self.start = now()

            def on_train_epoch_end(self, *_: Any) -> None:
                self.seconds = now() - self.start

        timer, before = StepTimer(), torch.get_num_threads()
        torch.set_num_threads(threads or before)
        with tempfile.TemporaryDirectory() as folder, deterministic(exact):
            fit(self.module(), [timer], Path(folder) / "checkpoints", precision)
        torch.set_num_threads(before)
        return timer.seconds / STEPS

    def loop(
        self, precision: Any, losses: Callable[[Any, Any], Iterator[Any]], warm_up: int
    ) -> float:
        """The steps of `fit` in a loop, at one learning rate."""
        from rapipe.device import device

        module = self.module().to(device())
        optimiser = module.configure_optimizers()["optimizer"]
        source = losses(module, precision)

        def step(number: int) -> None:
            module.network.before_step(number, STEPS)
            loss = next(source)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return seconds_a_step(step, warm_up)

    def our_loss(self, module: Any, precision: Any) -> Iterator[Any]:
        """Loss after loss of our data path."""
        from rapipe.device import autocast, device

        for batch in module.train_dataloader():
            with autocast(device(), precision):
                loss = module.training_step(batch, 0)
            yield loss

    def lightly_loss(self, module: Any, precision: Any) -> Iterator[Any]:
        """Loss after loss of a DataLoader with lightly's transforms."""
        import torch
        from lightly.transforms.byol_transform import (
            BYOLTransform,
            BYOLView1Transform,
            BYOLView2Transform,
        )
        from PIL import Image
        from torch.utils.data import DataLoader, Dataset

        from rapipe.device import autocast, device

        labels = torch.zeros(self.batch, dtype=torch.int64, device=device())
        plain = {"input_size": SIDE, "cj_strength": 0.5, "gaussian_blur": 0.0}
        transform = BYOLTransform(
            BYOLView1Transform(**plain), BYOLView2Transform(**plain, solarization_prob=0.0)
        )
        pixels = self.pixels
        count = len(pixels) + 2 * prefetched() * self.batch  # so that the workers never idle

        class Views(Dataset):
            def __len__(self) -> int:
                return count

            def __getitem__(self, row: int) -> Any:
                return transform(Image.fromarray(pixels[row % len(pixels)]))

        on_gpu = device().type == "cuda"
        loader = DataLoader(
            Views(),
            self.batch,
            shuffle=True,
            num_workers=cores(),
            prefetch_factor=PREFETCHED,
            drop_last=True,
            pin_memory=on_gpu,
        )
        for first, second in loader:
            views = [
                view.to(device(), non_blocking=True, memory_format=torch.channels_last)
                for view in (first, second)
            ]
            with autocast(device(), precision):
                loss = module.network(tuple(views), labels)
            yield loss

    def bare(self, precision: Any) -> float:
        """Forward and backward on one batch that is there already."""
        import torch

        from rapipe.device import autocast, device

        network = self.module().network.to(device())
        views = torch.rand(2, self.batch, 3, SIDE, SIDE, device=device())
        labels = torch.zeros(self.batch, dtype=torch.int64, device=device())
        first, second = (v.contiguous(memory_format=torch.channels_last) for v in views)

        def step(_: int) -> None:
            network.zero_grad()
            with autocast(device(), precision):
                loss = network((first, second), labels)
            loss.backward()

        return seconds_a_step(step, WARM_UP)


if __name__ == "__main__":
    main()
