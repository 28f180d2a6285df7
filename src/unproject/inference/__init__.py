"""From frames to a reconstruction."""
