"""The study: what looking things up is worth on photographs, by experiments."""
