"""Figures, tables and words of the page."""
