"""Networks, generators and the bundle format."""
