"""What the kernel says of a machine: temperatures, clocks."""
