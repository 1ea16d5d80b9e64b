"""Atomic files and folders, checksums, locks, memory maps, weights, JSON and CSV."""
