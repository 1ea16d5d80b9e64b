"""Images and their neighbours to logits."""
