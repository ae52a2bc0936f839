"""What people run: the command line, preflight, bootstrap, drills, the simulation and the demo."""
