"""Images: real, augmented, pooled, stored."""
