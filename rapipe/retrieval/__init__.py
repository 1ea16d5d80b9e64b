"""Vectors on disk, and which of them are neighbours."""
