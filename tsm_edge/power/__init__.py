"""Power: sensors, and the energy of a window of time measured with them.

``sensor`` says what a sensor is, one module a family knows how to read it, ``registry`` finds it by what a person
writes (``rapl``, ``shelly:http://HOST``), ``sampler`` reads it in a thread, ``trace`` adds the samples up, ``measure``
subtracts the idle power. All of it needs the standard library alone.
"""
