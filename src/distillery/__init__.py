"""Data-free knowledge distillation: teacher weights in, an evaluated student out."""
