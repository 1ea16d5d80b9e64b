"""Generators of labelled images: one file each, one line each in `GENERATORS`."""

from rapipe.generation.acgan import ACGAN
from rapipe.generation.base import Generator, GeneratorSpec
from rapipe.generation.ddpm import DDPM

GENERATORS: dict[str, type[Generator]] = {"ddpm": DDPM, "acgan": ACGAN}

__all__ = ["GENERATORS", "Generator", "GeneratorSpec"]
