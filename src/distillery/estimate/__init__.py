"""What a run will cost on this machine: seconds, memory, disk."""
