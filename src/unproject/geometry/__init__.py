"""Pure functions of tensors: rigid motion, cameras, alignment, flow, rays. Batched over leading axes."""
