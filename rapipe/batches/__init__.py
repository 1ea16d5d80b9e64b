"""The loader and the transforms of all training and prediction."""
