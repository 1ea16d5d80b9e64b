"""Attribution maps: which pixels of an image speak for the class that a classifier predicts."""
