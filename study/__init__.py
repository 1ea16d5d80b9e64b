"""The study: what looking things up is worth on photographs, in pieces that can be run apart."""
