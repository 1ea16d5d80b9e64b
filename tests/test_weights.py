"""A network on disk is read as it was written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from rapipe.errors import UserError
from rapipe.io import weights


@dataclass(frozen=True)
class Spec:
    name: str = "net"
    sizes: tuple[int, ...] = (3, 2)


def network(seed: int = 0, width: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network with its card."""
    weights.write(tmp_path, network(), Spec(), {"epochs": 4})
    return tmp_path


def read(folder: Path, module: nn.Module) -> dict[str, object]:
    card = weights.read_card(folder, "train")
    weights.fill(module, folder, card, "train")
    return card


def test_round_trip(folder: Path) -> None:
    module = network(1)
    card = read(folder, module)
    assert card["spec"] == {"name": "net", "sizes": (3, 2)}
    assert card["epochs"] == 4
    for name, tensor in network().state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def test_the_fingerprint_is_of_spec_and_weights(folder: Path) -> None:
    prints = {weights.fingerprint(weights.read_card(folder, "train"))}
    for module, spec, facts in (
        (network(), Spec(), {"epochs": 5}),
        (network(), Spec("other"), {}),
        (network(1), Spec(), {}),
    ):
        weights.write(folder, module, spec, facts)
        prints.add(weights.fingerprint(weights.read_card(folder, "train")))
    assert len(prints) == 3  # epochs do not matter


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no weights": (weights.WEIGHTS, Path.unlink, r"weights\.safetensors is missing: run rapipe t"),
    "no card": (weights.CARD, Path.unlink, r"card\.json is missing: run rapipe train"),
    "half the weights": (
        weights.WEIGHTS,
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        r"weights\.safetensors does not load \(.*\): run rapipe train",
    ),
    "no JSON": (weights.CARD, lambda path: path.write_text("{"), r"card\.json is damaged"),
    "no spec": (weights.CARD, lambda path: path.write_text("{}"), r"card\.json is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_names_the_file_and_the_command(name: str, folder: Path) -> None:
    file, damage, message = DAMAGE[name]
    damage(folder / file)
    with pytest.raises(UserError, match=message):
        read(folder, network())


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="does not load"):
        read(folder, network(width=4))
    card = (folder / weights.CARD).read_text()
    weights.write(folder, network(1), Spec(), {})
    (folder / weights.CARD).write_text(card)
    with pytest.raises(UserError, match="does not match its card: run rapipe train"):
        read(folder, network())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    value: float, folder: Path
) -> None:
    from safetensors.torch import save_file

    before = (folder / weights.WEIGHTS).read_bytes()
    module = network()
    module.state_dict()["1.running_var"][1] = value
    assert weights.not_finite(module) == "1.running_var"
    with pytest.raises(UserError, match=r"is not written, since 1\.running_var is not finite"):
        weights.write(folder, module, Spec(), {})
    assert (folder / weights.WEIGHTS).read_bytes() == before
    save_file(module.state_dict(), folder / weights.WEIGHTS)
    card = json.loads((folder / weights.CARD).read_text())
    card["hash"] = weights.weights_hash(module)
    (folder / weights.CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"has a 1\.running_var that is not finite"):
        read(folder, network())
