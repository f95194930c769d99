"""Where the tasks of a run are placed on a cluster: profiles of its node pools, and what one run changes of them."""
