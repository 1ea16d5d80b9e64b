"""What pretraining an encoder and training a classifier share."""
