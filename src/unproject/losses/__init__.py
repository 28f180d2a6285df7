"""What a prediction should satisfy."""
