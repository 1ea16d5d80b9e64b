"""The verbs of `rapipe store` and `rapipe neighbors`."""
