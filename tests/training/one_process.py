"""What each process of the tests of several processes runs: `python one_process.py TASK FOLDER [SPEC]`.

SPEC: JSON. Results go into FOLDER, by rank; a MestError becomes its sentence and exit code 2, as in the command line.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mest_compiler.errors import MestError
from mest_compiler.losses import Mse
from mest_compiler.sparsity.schemes import get_scheme
from mest_compiler.training.augment import Augmentation
from mest_compiler.training.data import DataSet
from mest_compiler.training.global_batch_norm import with_global_batch_norm
from mest_compiler.training.loop import train
from mest_compiler.training.process_group import ranks_of_environment
from mest_compiler.training.progress import QuietReporter
from mest_compiler.training.ranks import Ranks
from mest_compiler.training.recipe import Recipe
from mest_compiler.training.torch_engine import TorchEngine

CLASSES = 3
SPARSE = "3.weight"
BATCH = 16
CHECKPOINT_STEPS = 2
INTERRUPTED = 130
LEFT_THREADS = 4
NETWORKS: list[TorchEngine] = []
"""Those made so far: as in the command line, where a network outlives the group that trained it."""


def data() -> DataSet:
    """100 + 41 noisy 8x8 images whose class is a bright row."""
    rng = np.random.default_rng(0)

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, size=n)
        x = rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
        x[np.arange(n), 0, 2 * y + 1] += 1.5
        return x, y

    return DataSet(
        "rows", *part(100), *part(41), classes=CLASSES, channels=1, plane=(8, 8), black=np.zeros(1, np.float32),
        augmentation=Augmentation(padding=1, flip=True),
    )  # fmt: skip


def engine(recipe: Recipe, ranks: Ranks) -> TorchEngine:
    """Convolutions, batch norms and a linear layer, in float64; the second convolution is sparse."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, CLASSES),
    )
    mask = get_scheme(recipe.scheme).random_mask((8, 6, 3, 3), recipe.sparsity, np.random.default_rng(2))
    schemes = {SPARSE: recipe.scheme}
    NETWORKS.append(TorchEngine(model, {SPARSE: mask}, schemes, dtype=torch.float64, seed=recipe.seed, ranks=ranks))
    return NETWORKS[-1]


class Stopped(QuietReporter):
    """After so many steps of the run this process is interrupted, or dies without a word."""

    def __init__(self, after: int | None, dies: bool) -> None:
        self.left, self.dies = after, dies

    def step_finished(self, done: int, loss: float) -> None:
        """Count."""
        if self.left is None:
            return
        self.left -= 1
        if not self.left:
            if self.dies:
                os._exit(3)
            raise KeyboardInterrupt


def train_runs(folder: Path, spec: Mapping, ranks: Ranks) -> None:
    """Train every one of `runs` in its own folder under `folder`, and write the networks that come out."""
    for name, run in spec["runs"].items():
        recipe = Recipe(model="tiny", data="rows", batch=BATCH, seed=3, **run["recipe"])
        dying = run.get("dying")
        reporter = Stopped(run.get("stopped") if dying in (None, ranks.rank) else None, dying is not None)
        network, resume = engine(recipe, ranks), run.get("resume", False)
        try:
            summary = train(
                network, data(), recipe, folder / name, resume=resume, reporter=reporter,
                checkpoint_steps=CHECKPOINT_STEPS, ranks=ranks,
            )  # fmt: skip
        except KeyboardInterrupt:
            continue
        arrays = {f"state/{key}": value for key, value in network.state().items()}
        arrays |= {f"momentum/{key}": value for key, value in network.slots()["momentum"].items()}
        numbers = [(r.loss, r.train_score, r.test_score, r.unforgettable) for r in summary.records]
        units = network.kept_units()[SPARSE]
        np.savez(folder / name / f"rank{ranks.rank}.npz", units=units, numbers=np.array(numbers), **arrays)


def normalise(folder: Path, spec: Mapping, ranks: Ranks) -> None:
    """A batch norm, forward and backward and then in evaluation mode, on this process's part of each stored batch."""
    for name, options in spec["norms"].items():
        stored = np.load(folder / f"{name}.npz")
        share = ranks.share(len(stored["x"]))
        x, gradient = (torch.from_numpy(stored[key][share]) for key in ("x", "gradient"))
        kind = getattr(nn, options.pop("kind"))
        norm = with_global_batch_norm(kind(x.shape[1], dtype=x.dtype, **options))
        norm.load_state_dict({key[6:]: torch.from_numpy(stored[key]) for key in stored if key.startswith("state/")})
        x.requires_grad_()
        y = norm(x)
        y.backward(gradient)
        found = {"y": y, "x.grad": x.grad, **norm.state_dict()}
        found |= {f"{key}.grad": parameter.grad for key, parameter in norm.named_parameters()}
        found["evaluated"] = norm.eval()(x)
        arrays = {key: tensor.detach().numpy() for key, tensor in found.items()}
        np.savez(folder / f"{name}-rank{ranks.rank}.npz", **arrays)


def ask(folder: Path, spec: Mapping, ranks: Ranks) -> None:
    """Write what each of QUESTIONS answers, an error as its class and sentence."""
    answers = {}
    for question in QUESTIONS:
        try:
            answers[question.__name__] = question(ranks)
        except MestError as error:
            answers[question.__name__] = sentence(error)
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(answers))


def gathered(ranks: Ranks) -> tuple[float, list[bool]]:
    """What a step exchanges, with the largest digest."""
    loss, everyone = ranks.gathered(0.1 + ranks.rank, np.arange(5) % 2 == ranks.rank, 2**32 - 1)
    return loss, everyone.tolist()


def gathered_errors(ranks: Ranks) -> list[float]:
    """The same of errors, which are no answers."""
    return ranks.gathered(0.0, np.array([0.1, 0.35]) + ranks.rank, 0)[1].tolist()


def total(ranks: Ranks) -> float:
    """10.25 + 11.25 + ..."""
    return ranks.total(10.25 + ranks.rank)


class Product(nn.Module):
    """Two inputs by name, and a weight that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.frozen = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """[N, 2]."""
        return self.trained(left) * self.frozen(right)


def two_inputs(ranks: Ranks) -> list[float]:
    """The weight after a step on other examples in each process, which make one batch."""
    torch.manual_seed(0)
    network = TorchEngine(Product(), loss=Mse(), dtype=torch.float64, ranks=ranks)
    rng, share = np.random.default_rng(0), ranks.share(8)
    inputs = {name: rng.standard_normal((8, 3))[share] for name in ("left", "right")}
    network.step(inputs, rng.standard_normal((8, 2))[share], 0.1)
    return network.state()["trained.weight"].ravel().tolist()


def shares(ranks: Ranks) -> list[int]:
    """This process's part of four examples."""
    return list(range(4))[ranks.share(4)]


def odd_batch(ranks: Ranks) -> slice:
    """A batch that has no equal parts."""
    return ranks.share(33)


def other_masks(ranks: Ranks) -> tuple[float, np.ndarray]:
    """A step with other masks in each process."""
    return ranks.gathered(0.0, np.zeros(1, np.bool_), ranks.rank)


def idle_parameter(ranks: Ranks) -> None:
    """Training of a network with a parameter that its loss does not depend on."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    model.register_parameter("idle", nn.Parameter(torch.zeros(1)))
    network, examples = TorchEngine(model, ranks=ranks), data()
    for _ in range(2):
        network.step(examples.train_x[:4], examples.train_y[:4], 0.1)


QUESTIONS = (gathered, gathered_errors, total, two_inputs, shares, odd_batch, other_masks, idle_parameter)


def wait_in_vain(folder: Path, spec: Mapping, ranks: Ranks) -> None:
    """The last process is silent until the first one has waited for it in vain."""
    given_up = folder / "given up"
    if ranks.rank == ranks.size - 1:
        while not given_up.exists():
            time.sleep(0.1)
        return
    try:
        ranks.barrier()
    finally:
        given_up.touch()


def interrupt(folder: Path, spec: Mapping, ranks: Ranks) -> None:
    """Ctrl-C in the middle of the second step."""
    network, examples = engine(Recipe(model="tiny", data="rows", batch=BATCH, **spec["recipe"]), ranks), data()
    network.step(examples.train_x[:4], examples.train_y[:4], 0.1)

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    network.model[0].register_forward_hook(press)
    network.step(examples.train_x[:4], examples.train_y[:4], 0.1)


TASKS = {task.__name__: task for task in (train_runs, normalise, ask, wait_in_vain, interrupt)}


@contextmanager
def no_thread_left() -> Iterator[None]:
    """End the process where threads of the group are left after the block, however that ends.

    Such a thread may abort the process later, but seldom does.
    """
    try:
        yield
    finally:
        names = [comm.read_text() for comm in Path("/proc/self/task").glob("*/comm")]  # none where there is no Linux
        if any("gloo" in name for name in names):
            print("threads of the closed group:", *names, file=sys.stderr, flush=True)
            os._exit(LEFT_THREADS)


def sentence(error: MestError) -> str:
    """As a person sees it."""
    return f"{type(error).__name__}: {error}"


def main(task: str, folder: str, spec: str = "{}") -> int:
    """Do the task among the processes of the environment; returns the exit code."""
    content = json.loads(spec)
    try:
        with no_thread_left(), closing(ranks_of_environment("cpu", content.get("timeout_s", 60.0))) as ranks:
            TASKS[task](Path(folder), content, ranks)
    except MestError as error:
        print(sentence(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
