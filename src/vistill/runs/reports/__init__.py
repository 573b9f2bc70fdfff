"""What a command came to, as a page."""
