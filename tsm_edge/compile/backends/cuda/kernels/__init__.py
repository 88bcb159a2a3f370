"""The rules: one module each, with its spec, its choice and the kernel it writes."""
