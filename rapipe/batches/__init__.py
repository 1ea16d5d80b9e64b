"""Batches of images, and what is done to them, for every training and every prediction."""
