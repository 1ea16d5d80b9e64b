"""Images to unit vectors: backbones, their weights, and how good their features are."""
