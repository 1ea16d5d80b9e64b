"""Trainings as Lightning modules, and what they share."""
