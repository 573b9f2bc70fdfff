"""Clips from video files: exact frames, sampling in time, crops that all frames share."""
