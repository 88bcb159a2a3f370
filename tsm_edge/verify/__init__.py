"""A compiled model against its reference: here, emulated, or on a device."""
