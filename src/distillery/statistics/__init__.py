"""BatchNorm moments and scoped taps."""
