"""Who does what, and where: action detection on key frames of AVA's format (spec amd 11.4)."""
