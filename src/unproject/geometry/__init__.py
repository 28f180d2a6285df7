"""Pure functions of tensors: rigid motion, cameras, alignment, flow and rays. Float32 or better, batched over leading axes."""
