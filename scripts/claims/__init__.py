"""What the papers claim, tried at a scale that anyone can repeat: one file a claim."""
