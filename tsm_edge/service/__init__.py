"""A run as a service of the system: systemd's unit, and what systemd is told while it runs."""
