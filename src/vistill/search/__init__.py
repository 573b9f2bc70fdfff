"""Embeddings of a folder of pictures or clips, kept so that they can be searched."""
