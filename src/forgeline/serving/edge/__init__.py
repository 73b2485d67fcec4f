"""A bundle for devices without Python."""
