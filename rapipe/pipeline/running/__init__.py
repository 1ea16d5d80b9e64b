"""How a command runs: checks, locks, costs and exit codes."""
