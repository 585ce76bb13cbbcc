"""Tensors to bytes and back: casts, quantisation, image files, compression."""
