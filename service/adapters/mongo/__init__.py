"""MongoDB through Motor: the only package that imports the driver."""
