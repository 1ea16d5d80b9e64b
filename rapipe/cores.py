"""The cores of this machine, and how busy others keep them."""

from __future__ import annotations

import os

LOOK = 0.3
"""Seconds for which others are watched."""


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def busy_cores() -> float:
    """How many cores other processes keep busy right now, about."""
    import psutil

    return psutil.cpu_percent(LOOK) / 100 * (psutil.cpu_count() or 1)
