"""Clips to learn from and to test with."""
