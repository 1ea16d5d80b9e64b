"""A network on disk: `weights.safetensors` and a JSON card beside it. No pickle.

Cards are read without torch, whose import takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapipe.errors import UserError, first_line
from rapipe.io.atomic import atomic_write

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
CARD = "card.json"


def write(folder: Path, module: nn.Module, spec: Any, facts: dict[str, Any]) -> None:
    """Write the weights, and a JSON card with the spec, the weights' hash and `facts`.

    Args:
        spec: the dataclass that the network is built from.
        facts: more keys of the card.

    Raises:
        UserError: a weight is not finite; then nothing is written.
    """
    from safetensors.torch import save

    if name := not_finite(module):
        raise UserError(
            f"{folder / WEIGHTS} is not written, since {name} is not finite: lower the learning "
            "rate of what made it, or start from other weights"
        )
    atomic_write(
        folder / WEIGHTS, save({name: t.contiguous() for name, t in module.state_dict().items()})
    )
    card = {"spec": asdict(spec), "hash": weights_hash(module), **facts}
    atomic_write(folder / CARD, (json.dumps(card, indent=2, allow_nan=False) + "\n").encode())


def read_card(folder: Path, stage: str) -> dict[str, Any]:
    """The card that `write` wrote; lists in its spec are tuples again, as in the dataclass.

    Raises:
        UserError: the card is missing or damaged; names the stage that writes it.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text())
        card["spec"] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["spec"].items()}
    except FileNotFoundError:
        raise UserError(f"{folder / CARD} is missing: run rapipe {stage}, or dvc repro") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / CARD} is damaged ({error}): run rapipe {stage}") from None
    return card


def fill(module: nn.Module, folder: Path, card: dict[str, Any], stage: str) -> None:
    """Load the weights of `folder` into `module`.

    Raises:
        UserError: they are missing, damaged, of another network, not finite, or not those of
            the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing: run rapipe {stage}") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS} does not load ({first_line(error)}): run rapipe {stage}"
        ) from None
    if weights_hash(module) != card.get("hash"):
        raise UserError(f"{folder / WEIGHTS} does not match its card: run rapipe {stage}")
    if name := not_finite(module):
        raise UserError(f"{folder / WEIGHTS} has a {name} that is not finite: run rapipe {stage}")


def not_finite(module: nn.Module) -> str:
    """The name of the first weight or buffer with a NaN or an infinity; empty if none has one."""
    return next((name for name, t in module.state_dict().items() if not t.isfinite().all()), "")


def fingerprint(card: dict[str, Any]) -> str:
    """SHA-256 of all that decides the vector of an image: spec and weights, or imported vectors."""
    facts = [card[name] for name in ("spec", "hash", "vectors") if name in card]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of the names and values of all weights and buffers."""
    digest = hashlib.sha256()
    tensors: list[tuple[str, Tensor]] = sorted(module.state_dict().items())
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
