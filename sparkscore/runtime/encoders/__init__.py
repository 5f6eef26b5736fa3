"""Encoders turn columns into tensors: numbers, arrays, categories, texts, images, and the `Encoder` of a whole plan."""

from sparkscore.runtime.encoders.encoder import Encoder, Group

__all__ = ["Encoder", "Group"]
