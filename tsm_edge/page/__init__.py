"""A page in the browser: the picture, its label, and how the run is doing. Served by a process of its own."""
