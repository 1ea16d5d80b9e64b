"""What one classifier does: predictions, and what its neighbours have to do with them."""
