"""Program to model.so: C tables, constants, cross compiler and linker, the runner."""
