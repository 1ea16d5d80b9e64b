"""Figures, tables and the page of the report, from rows of results."""
