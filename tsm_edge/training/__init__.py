"""Training: generated motion clips, people's own clips, the training loop, teaching, and evaluating what was compiled.

Importing this package imports no PyTorch; the modules that train do.
"""
