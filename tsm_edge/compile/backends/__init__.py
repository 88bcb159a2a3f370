"""One backend a kind of device; none imports another."""
