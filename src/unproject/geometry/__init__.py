"""Pure functions of tensors: rigid motion, cameras, alignment, flow, rays. Float32 or better, batched over leading axes."""
