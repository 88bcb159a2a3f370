"""What the compiler's stages hand on to each other. Nothing here imports TVM."""
