"""What runs leave behind, and who reads it: runs, lineage, audit, prune, compare, and what a page is gathered from."""
