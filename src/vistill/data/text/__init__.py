"""Sentences beside pictures and clips: cleaned, cut into tokens, and handed to loader processes."""
