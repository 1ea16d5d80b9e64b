"""What a classifier can do, and what its neighbours have to do with it."""
