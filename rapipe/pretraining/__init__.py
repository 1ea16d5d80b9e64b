"""How an encoder is pretrained."""
