"""Cameras, depth and motion from images and video, and training of such networks without 3D annotation."""
