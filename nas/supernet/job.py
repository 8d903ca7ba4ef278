"""The training of a supernet in a folder: planned with its cost, gone on with after a kill."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.cli import UserError, format_bytes, format_duration, format_number, plural
from nas.ram import lack_of_memory
from nas.supernet.envelope import KINDS, Envelope, envelope_of
from nas.supernet.evaluator import SupernetAccuracy
from nas.supernet.network import Supernet, supernet
from nas.supernet.trainer import Sandwich, SupernetTrainer, seconds_per_image
from nas.training import checkpoint
from nas.training.memory import training_bytes
from nas.training.parts import choose_device, give_memory_back
from nas.training.proxy import ProxyTraining
from nas.training.recipe import Recipe
from nas.training.score import DivergedError
from nas.trials.evaluate import measure
from search_spaces.files import differences, remove_leftovers
from search_spaces.spaces import Space, sample_networks

_REMEDY = "A step trains the largest network of the space: lower --batch-size, or --target-flops."
_LOOKED_AT = 8
"""Networks that tell whether the weights learnt anything."""


@dataclass(frozen=True, kw_only=True)
class SupernetJob:
    """All that the training of a supernet needs, made definite."""

    space: Space
    training: ProxyTraining
    """Has the images, and trains single networks on them."""
    epochs: int
    drawn: int
    """Networks drawn at random for each step, beside the largest and the smallest."""
    seed: int

    @property
    def conditions(self) -> dict[str, Any]:
        """What the weights depend on, beside space and images."""
        return {"epochs": self.epochs, "drawn": self.drawn, "rule": 1}

    def describe(self) -> list[str]:
        """What the weights are and take, for the terminal.

        Raises:
            SharingError: The networks of the space cannot share weights.
        """
        fresh = self._fresh()
        kinds = sorted(frozenset().union(*(s.kinds for s in fresh.envelope.stages)))
        own = "; ".join(KINDS[kind] for kind in kinds)
        memory = format_bytes(self.bytes_of_training())
        return [
            f"shared  one supernet of {format_number(fresh.num_params)} params, "
            f"{format_bytes(4 * fresh.num_params)}; its training takes about {memory} · "
            f"{plural(self.epochs, 'epoch')} of the largest, the smallest and "
            f"{plural(self.drawn, 'random network')} a step",
            f"        weights of their own: {own}",
        ]

    def bytes_of_training(self) -> int:
        """Peak memory, counted: the largest network's step, and of the shared weights themselves,
        their gradients, those on their way from a network, and momentum. See
        `nas.training.memory` for what cannot be counted."""
        batch = self.recipe.batch(len(self.training.data.train))
        step = training_bytes(self.sandwich.largest, batch_size=batch, recipe=self.recipe)
        return step + 4 * 4 * self._fresh().num_params

    def seconds_of_training(self) -> float:
        """Estimated, from a few timed steps.

        Raises:
            UserError: Memory does not suffice, or the training diverged.
        """
        train = self.training.data.train
        with _explained():
            step = seconds_per_image(
                self._fresh(),
                self.sandwich,
                train,
                self.recipe,
                device=choose_device(self.training.device),
            )
        return step * len(train) * self.epochs

    def seconds_of_evaluation(self) -> float:
        """Measured once, with the largest network."""
        evaluator = self._evaluator(self._fresh())
        start = time.perf_counter()
        evaluator(self.sandwich.largest, epochs=self.epochs, seed=self.seed)
        return time.perf_counter() - start

    def train(self, folder: Path, announce: Callable[[str], None]) -> SupernetAccuracy:
        """Train from the newest checkpoint of `folder`, or from the start, to the end.

        Raises:
            UserError: The folder holds weights that were trained otherwise, memory does not
                suffice, or the training diverged.
            CheckpointError: Its checkpoints cannot be read.
        """
        with _explained():
            trained = self._trained(folder, announce)
        evaluator = self._evaluator(trained)
        announce(self._learnt(evaluator))
        give_memory_back(choose_device(self.training.device))
        return evaluator

    def _trained(self, folder: Path, announce: Callable[[str], None]) -> Supernet:
        remove_leftovers(folder / checkpoint.NAME)
        device = choose_device(self.training.device)
        data = self.training.data.train
        trainer = SupernetTrainer(
            self._fresh(), self.sandwich, data, self.recipe, seed=self.seed, device=device
        )
        spent = 0.0
        saved = checkpoint.resume(
            folder,
            "the supernet",
            self.epochs,
            refuse=lambda conditions: self._refuse(folder, conditions),
            announce=announce,
            flag="--run-dir",
        )
        if saved is not None:
            trainer.load_state(saved["trainer"])
            spent = saved["seconds"]
        start = time.monotonic() - spent
        while trainer.epoch < self.epochs:
            loss = trainer.run_epoch()
            spent = time.monotonic() - start
            state = {"conditions": self._all, "seconds": spent, "trainer": trainer.state()}
            checkpoint.save(folder, state)
            left = format_duration(spent / trainer.epoch * (self.epochs - trainer.epoch))
            announce(
                f" {trainer.epoch:>{len(str(self.epochs))}}/{self.epochs}   loss of the largest "
                f"{loss:.4f}   eta {left}"
            )
        return trainer.supernet

    @cached_property
    def envelope(self) -> Envelope:
        """What the weights are large enough for.

        Raises:
            SharingError: The networks of the space cannot share weights.
        """
        return envelope_of(self.space)

    @cached_property
    def sandwich(self) -> Sandwich:
        """The networks of its steps."""
        return Sandwich.of(self.space, self.drawn)

    @property
    def recipe(self) -> Recipe:
        """A trial's, over more epochs."""
        return self.training.recipe(self.epochs)

    def _learnt(self, evaluator: SupernetAccuracy) -> str:
        """What a few random networks can do with the shared weights, and a warning if that is
        nothing: then their ranking is chance, too."""
        reached = []
        for network in sample_networks(self.space, _LOOKED_AT, seed=0):
            outcome = measure(evaluator, network, epochs=self.epochs, seed=self.seed)
            reached.append(outcome.accuracy or 0.0)  # a failed trial, should a search try it
        chance = self.training.majority
        mean = statistics.fmean(reached)
        found = (
            f"{_LOOKED_AT} random networks reach {min(reached):.3f} to {max(reached):.3f} with the "
            f"shared weights, {mean:.3f} on average; the largest class alone is {chance:.3f}"
        )
        noise = math.sqrt(chance * (1 - chance) / len(self.training.validation))
        if mean > chance + 2 * noise:
            return f"learnt  {found}"
        return (
            f"WARNING {found}: they learnt nothing that a search could use. Take more "
            "--supernet-epochs, or a space whose blocks are alike, such as --space efficientnet."
        )

    def _fresh(self) -> Supernet:
        return supernet(self.envelope, self.seed)

    def _evaluator(self, trained: Supernet) -> SupernetAccuracy:
        return SupernetAccuracy.of(trained, self.training, seed=self.seed)

    @property
    def _all(self) -> dict[str, Any]:
        """`conditions`, with space, images and seed, for a folder that is used alone."""
        data = self.training.data
        return {
            **self.conditions,
            "seed": self.seed,
            "largest": self.sandwich.largest.digest,
            "smallest": self.sandwich.smallest.digest,
            "fingerprint": data.fingerprint,
            "images": len(data.train),
            "batch_size": self.recipe.batch(len(data.train)),
        }

    def _refuse(self, folder: Path, conditions: Mapping[str, Any]) -> None:
        if changes := differences(conditions, self._all):
            raise UserError(
                f"{folder} holds a supernet that was trained otherwise: {'; '.join(changes)}. "
                "Restore that, or choose another --run-dir."
            )


@contextmanager
def _explained() -> Iterator[None]:
    """What the user can do about a training that fails."""
    try:
        with lack_of_memory(_REMEDY):
            yield
    except DivergedError as error:
        raise UserError(
            f"The supernet's training diverged: {error}. A smaller --batch-size lowers the "
            "learning rate with it."
        ) from error


def seconds_spent(folder: Path) -> float:
    """Wall-clock time of the training that a folder holds, over all its processes."""
    state = checkpoint.load(folder, "--run-dir").state
    return 0.0 if state is None else state["seconds"]
