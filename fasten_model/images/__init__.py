"""Images: from bytes to uint8 tensors, and from those to what a trunk is given."""
