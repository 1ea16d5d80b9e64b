"""New images: their classes, how sure a classifier is, and what it looked up."""
