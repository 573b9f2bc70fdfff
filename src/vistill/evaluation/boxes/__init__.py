"""Things in pictures, the boxes around them and their shapes (spec kdep 11.3)."""
