"""What every step works at: key, store, lock, checkpoints, tracker, and the inputs put together."""
