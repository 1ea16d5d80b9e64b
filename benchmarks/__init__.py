"""Speed, measured beside peers in the same run; not part of the package."""
