"""Encoders, classifiers and memories on the Hugging Face hub: `rapipe push` and `rapipe pull`."""
