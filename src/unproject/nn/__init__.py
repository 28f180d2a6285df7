"""Blocks with parameters that several networks share."""
