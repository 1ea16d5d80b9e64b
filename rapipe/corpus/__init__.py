"""Images from any source, as squares with ids and splits."""
