"""Semantic segmentation on pictures with masks."""
