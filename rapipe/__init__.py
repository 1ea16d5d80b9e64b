"""rapipe: retrieval-augmented perception, from a corpus of images to evidence."""

__version__ = "0.9.0"
