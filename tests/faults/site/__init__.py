"""A folder for PYTHONPATH, with what Python imports by itself when it starts."""
