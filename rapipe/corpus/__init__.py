"""From sources of images to a corpus: squares with ids, labels and splits."""
