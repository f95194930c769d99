"""What the commands do, one file each; `cli.py` registers them."""
