"""Fault injection: kills, damaged files, full disks, odd inputs: `python -m tests.faults`."""
